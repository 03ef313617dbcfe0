// Package sshkey keeps SSH public keys as resources. A key pair may be made here: its private half is answered once and kept
// nowhere.
package sshkey

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

// Type is the resource type.
const Type = "Microsoft.Compute/sshPublicKeys"

var afterKey = failpoint.New("compute/ssh-key-written")

// Key is an SSH public key, or the place of one that is yet to be made.
type Key struct {
	Meta      tracked.Meta `json:"meta"`
	PublicKey string       `json:"publicKey,omitempty"` // one line of authorized_keys
}

// Service serves them.
type Service struct {
	DB       *store.DB
	Store    store.Store[Key]
	Groups   *resources.Groups
	Location string
	Now      func() time.Time
}

func (s *Service) kind() tracked.Kind[Key] {
	return tracked.Kind[Key]{Type: Type, Store: s.Store, Meta: func(k *Key) *tracked.Meta { return &k.Meta },
		Render: func(_ context.Context, k Key, _ *arm.Request) (any, error) { return k.wire(), nil }}
}

func (k Key) wire() any {
	p := map[string]any{}
	if k.PublicKey != "" {
		p["publicKey"] = k.PublicKey
	}
	return k.Meta.Wire(p)
}

// Routes of the kind.
func (s *Service) Routes() []arm.Route {
	const one = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type + "/{name}"
	return append(s.kind().Routes(),
		arm.Route{Method: http.MethodPut, Pattern: one, Action: Type + "/write", Handle: s.put},
		arm.Route{Method: http.MethodPatch, Pattern: one, Action: Type + "/write", Handle: s.patch},
		arm.Route{Method: http.MethodDelete, Pattern: one, Action: Type + "/delete", Handle: s.delete},
		arm.Route{Method: http.MethodPost, Pattern: one + "/generateKeyPair", Action: Type + "/generateKeyPair/action", Handle: s.generate})
}

var shape = arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "systemData": arm.ReadOnly, "location": arm.Text, "tags": arm.Free,
	"properties": arm.Object(arm.Shape{"publicKey": arm.Text})}

type body struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		PublicKey string `json:"publicKey"`
	} `json:"properties"`
}

// The key types that Azure takes, and the least size of RSA, in bits.
const minRSA = 2048

// Check refuses what is not one public key of a kind that virtual machines take: RSA of 2048 bits or more, or Ed25519, on
// one line and without options.
func Check(line string) error {
	const target = "properties.publicKey"
	bad := func(why string) error {
		return arm.Errorf(http.StatusBadRequest, "InvalidParameter", "The value of property '%s' is no SSH public key: %s; want one line 'ssh-rsa …' of %d bits or more, or 'ssh-ed25519 …'.", target, why, minRSA).At(target)
	}
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return bad("it has several lines")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return bad("it can't be read")
	case len(options) > 0:
		return bad("it has options")
	case len(rest) > 0:
		return bad("something follows it")
	}
	public, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return bad("its type is " + key.Type())
	}
	switch k := public.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return bad("its size is too small")
		}
	case ed25519.PublicKey:
	default:
		return bad("its type is " + key.Type())
	}
	return nil
}

func (s *Service) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	if err := arm.CheckLocation(b.Location, s.Location, Type); err != nil {
		return nil, err
	}
	if b.Properties.PublicKey != "" {
		if err := Check(b.Properties.PublicKey); err != nil {
			return nil, err
		}
	}
	// A body without a key leaves the one that is there.
	key, made, err := s.kind().Write(ctx, s.DB, s.Groups, r, s.Now, func(k *Key, _ bool) error {
		k.Meta.Location, k.Meta.Tags = s.Location, b.Tags
		if b.Properties.PublicKey != "" {
			k.PublicKey = strings.TrimSpace(b.Properties.PublicKey)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	afterKey.Hit()
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return &arm.Response{Status: status, Body: key.wire()}, nil
}

func (s *Service) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if b.Properties.PublicKey != "" {
		if err := Check(b.Properties.PublicKey); err != nil {
			return nil, err
		}
	}
	key, err := s.change(ctx, r, func(k *Key) error {
		if b.Tags != nil {
			k.Meta.Tags = b.Tags
		}
		if b.Properties.PublicKey != "" {
			k.PublicKey = strings.TrimSpace(b.Properties.PublicKey)
		}
		return tracked.CheckTags(k.Meta.Tags)
	})
	if err != nil {
		return nil, err
	}
	return arm.OK(key.wire()), nil
}

func (s *Service) change(ctx context.Context, r *arm.Request, change func(*Key) error) (Key, error) {
	id := r.ID()
	id.Type, id.Name = Type, r.Var("name")
	if _, err := s.kind().Find(ctx, id); err != nil {
		return Key{}, err
	}
	it, err := s.Store.Mutate(ctx, id.Key(), func(k *Key) error {
		if err := tracked.Match(r.HTTP.Header, k.Meta.Etag); err != nil {
			return err
		}
		k.Meta.Etag = tracked.NewEtag()
		return change(k)
	})
	return it.Value, err
}

func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.Store.Get(ctx, r.ID().Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	if err := tracked.Match(r.HTTP.Header, it.Value.Meta.Etag); err != nil {
		return nil, err
	}
	if err := s.Store.Delete(ctx, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

// generate makes a key pair, once for each resource: a key that VMs were made with is not exchanged unseen.
func (s *Service) generate(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		EncryptionType string `json:"encryptionType"`
	}
	if len(r.Body) > 0 {
		if err := arm.Decode(r.Body, arm.Shape{"encryptionType": arm.OneOf("RSA", "Ed25519")}, &b); err != nil {
			return nil, err
		}
	}
	public, private, err := pair(b.EncryptionType)
	if err != nil {
		return nil, err
	}
	key, err := s.change(ctx, r, func(k *Key) error {
		if k.PublicKey != "" {
			return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "SSH public key %s has a key already; a pair is made once for each resource.", k.Meta.ID.Name)
		}
		k.PublicKey = public
		return nil
	})
	if err != nil {
		return nil, err
	}
	return arm.OK(map[string]any{"id": key.Meta.ID.String(), "publicKey": public, "privateKey": private}), nil
}

// rsaBits is the size of pairs that are made here.
const rsaBits = 3072

func pair(kind string) (public, private string, err error) {
	var key crypto.Signer
	if kind == "Ed25519" {
		_, key, err = ed25519.GenerateKey(rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	}
	if err != nil {
		return "", "", err
	}
	line, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return "", "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))), string(pem.EncodeToMemory(block)), nil
}

// Resources lists the keys of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	return s.kind().Metas(ctx, sub, group)
}

// Clear removes the keys of a group.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	return s.kind().Clear(ctx, sub, group, func(Key) bool { return true })
}
