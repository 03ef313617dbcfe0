package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/client/keywrap"
)

var afterWrite = failpoint.New("keys/keystore-file")

// minPassphrase is the shortest passphrase taken, in bytes.
const minPassphrase = 16

// Software is the backend that keeps everything in one encrypted file.
//
// The file is sealed as a whole, so that no record can be changed, removed, exchanged or set back by itself.
// Setting back the whole file cannot be seen from inside it. Each change writes the whole file.
type Software struct {
	path   string
	seal   *sealer
	lock   *os.File
	mu     sync.RWMutex
	keys   map[string]*Key // by folded id
	broken error           // set when it is unknown which state is on disk
}

var _ Backend = (*Software)(nil)

// OpenSoftware opens a keystore file, or makes an empty one where there is none. The cost counts for a new file only.
func OpenSoftware(path string, passphrase []byte, cost Cost) (*Software, error) {
	if len(passphrase) < minPassphrase {
		return nil, evidence.Refuse(evidence.CodePolicy, "keystore passphrase", fmt.Sprintf("%d bytes", len(passphrase)), fmt.Sprintf("at least %d", minPassphrase))
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the keystore's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("keystore %s is in use by another process: %w", path, err), lock.Close())
	}
	s := &Software{path: path, lock: lock, keys: map[string]*Key{}}
	if err := s.load(passphrase, cost); err != nil {
		return nil, errors.Join(fmt.Errorf("opening keystore %s: %w", path, err), lock.Close())
	}
	return s, nil
}

func (s *Software) load(passphrase []byte, cost Cost) error {
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		head, err := freshHeader(cost)
		if err != nil {
			return err
		}
		if s.seal, err = newSealer(passphrase, head); err != nil {
			return err
		}
		return s.write(s.keys)
	}
	if err != nil {
		return err
	}
	seal, plain, err := openFile(raw, passphrase)
	if err != nil {
		return err
	}
	s.seal = seal
	if err := json.Unmarshal(plain, &s.keys); err != nil {
		return fmt.Errorf("reading records: %w", err)
	}
	return nil
}

// write makes a state durable: a new file, flushed, renamed over the old one, and its folder flushed.
func (s *Software) write(keys map[string]*Key) error {
	plain, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	raw, err := s.seal.sealFile(plain)
	clear(plain)
	if err != nil {
		return err
	}
	tmp := s.path + ".new"
	if err := writeSynced(tmp, raw); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		// The rename may or may not survive a crash: nothing more is decided on a state that is in doubt.
		s.broken = fmt.Errorf("keystore is in doubt since a flush failed; restart keys: %w", err)
		return s.broken
	}
	afterWrite.Hit()
	return nil
}

func writeSynced(path string, b []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// Close lets another process open the file.
func (s *Software) Close() error { return s.lock.Close() }

// Get reads one record.
func (s *Software) Get(_ context.Context, id ID) (*Key, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	k, ok := s.keys[id.folded()]
	if !ok {
		return nil, notFound(id)
	}
	return k.Clone(), nil
}

// List reads the records of one vault.
func (s *Software) List(_ context.Context, vault string) ([]*Key, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Key
	for _, k := range s.keys {
		if strings.EqualFold(k.ID.Vault, vault) {
			out = append(out, k.Clone())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID.folded() < out[j].ID.folded() })
	return out, nil
}

// Update changes one record.
func (s *Software) Update(_ context.Context, id ID, change Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	name := id.folded()
	next, err := change(s.keys[name].Clone())
	if err != nil {
		return err
	}
	if next != nil && next.ID.folded() != name {
		return fmt.Errorf("record %s under the name %s", next.ID, id)
	}
	keys := make(map[string]*Key, len(s.keys)+1)
	for k, v := range s.keys {
		keys[k] = v
	}
	if next == nil {
		delete(keys, name)
	} else {
		keys[name] = next.Clone()
	}
	if err := s.write(keys); err != nil {
		return fmt.Errorf("writing the keystore: %w", err)
	}
	s.keys = keys
	return nil
}

// Generate makes new key material.
func (s *Software) Generate(_ context.Context, at Address, spec Spec) (Material, error) {
	if err := CheckSpec(spec); err != nil {
		return Material{}, err
	}
	var m Material
	plain := []byte(nil)
	var err error
	switch spec.Family() {
	case "RSA":
		var key *rsa.PrivateKey
		if key, err = rsa.GenerateKey(rand.Reader, spec.Bits); err == nil {
			plain, m.Public, err = encodeKey(key)
		}
	case "EC":
		var key *ecdsa.PrivateKey
		if key, err = ecdsa.GenerateKey(curves[spec.Crv], rand.Reader); err == nil {
			plain, m.Public, err = encodeKey(key)
		}
	case "oct":
		plain = make([]byte, spec.Bits/8)
		_, err = rand.Read(plain)
	}
	defer clear(plain)
	if err != nil {
		return Material{}, fmt.Errorf("making a key of kind %s: %w", spec.Kty, err)
	}
	m.Handle, err = seal(s.seal.material, plain, []byte(at.String()))
	return m, err
}

// Import seals key material that its owner brings.
func (s *Software) Import(_ context.Context, at Address, spec Spec, plain []byte) (Material, error) {
	public, err := PublicOf(spec, plain)
	if err != nil {
		return Material{}, err
	}
	sealed, err := seal(s.seal.material, plain, []byte(at.String()))
	return Material{Handle: sealed, Public: public}, err
}

// PublicOf is the public half (DER) of key material, nil for an AES key. It refuses material that is not of the kind and size.
func PublicOf(spec Spec, plain []byte) ([]byte, error) {
	if err := CheckSpec(spec); err != nil {
		return nil, err
	}
	wrong := evidence.Refuse(evidence.CodeParse, "key material", "of another kind or size", fmt.Sprintf("%s %d%s", spec.Kty, spec.Bits, spec.Crv))
	if spec.Family() == "oct" {
		if 8*len(plain) != spec.Bits {
			return nil, wrong
		}
		return nil, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, wrong
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if spec.Family() == "RSA" && k.N.BitLen() == spec.Bits {
			return x509.MarshalPKIXPublicKey(&k.PublicKey)
		}
	case *ecdsa.PrivateKey:
		if spec.Family() == "EC" && k.Curve == curves[spec.Crv] {
			return x509.MarshalPKIXPublicKey(&k.PublicKey)
		}
	}
	return nil, wrong
}

// archived is what Archive seals. The name of the vault is bound, so that no tenant's backup opens in another's vault.
const archived = "cloister key backup of vault "

// Archive seals a whole key under this keystore's key.
func (s *Software) Archive(k *Key) ([]byte, error) {
	plain, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return seal(s.seal.file, plain, []byte(archived+strings.ToLower(k.ID.Vault)))
}

// Unarchive opens what Archive sealed for a vault.
func (s *Software) Unarchive(vault string, sealed []byte) (*Key, error) {
	plain, err := unseal(s.seal.file, sealed, []byte(archived+strings.ToLower(vault)))
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	var k Key
	if err := json.Unmarshal(plain, &k); err != nil {
		return nil, fmt.Errorf("reading a backup: %w", err)
	}
	if !strings.EqualFold(k.ID.Vault, vault) {
		return nil, fmt.Errorf("a backup of vault %s for vault %s", k.ID.Vault, vault)
	}
	return &k, nil
}

func encodeKey(key crypto.Signer) (private, public []byte, err error) {
	if private, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, nil, err
	}
	public, err = x509.MarshalPKIXPublicKey(key.Public())
	return private, public, err
}

// use unseals material for the time of use: *rsa.PrivateKey, *ecdsa.PrivateKey or the bytes of an AES key.
// Go cannot promise that no copy of a private key stays in memory; the encoded form is cleared.
func (s *Software) use(at Address, m Material, do func(key any) error) error {
	plain, err := unseal(s.seal.material, m.Handle, []byte(at.String()))
	if err != nil {
		return fmt.Errorf("material of %s: %w", at, err)
	}
	defer clear(plain)
	if len(m.Public) == 0 {
		return do(plain)
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return fmt.Errorf("material of %s: %w", at, err)
	}
	return do(key)
}

// Sign signs a digest.
func (s *Software) Sign(_ context.Context, at Address, m Material, alg string, digest []byte) (out []byte, err error) {
	err = s.use(at, m, func(key any) error { out, err = sign(key, alg, digest); return err })
	return out, err
}

// Encrypt encrypts one block, or wraps a key.
func (s *Software) Encrypt(_ context.Context, at Address, m Material, alg string, plain []byte, in Sealed) (out Sealed, err error) {
	err = s.use(at, m, func(key any) error {
		switch k := key.(type) {
		case *rsa.PrivateKey:
			out.Ciphertext, err = EncryptPublic(&k.PublicKey, alg, plain)
		case []byte:
			out, err = encryptSecret(k, alg, plain, in.AAD)
		default:
			err = Unsupported(alg, key)
		}
		return err
	})
	return out, err
}

// Decrypt is the reverse of Encrypt.
func (s *Software) Decrypt(_ context.Context, at Address, m Material, alg string, in Sealed) (out []byte, err error) {
	err = s.use(at, m, func(key any) error {
		switch k := key.(type) {
		case *rsa.PrivateKey:
			out, err = decryptPrivate(k, alg, in.Ciphertext)
		case []byte:
			out, err = decryptSecret(k, alg, in)
		default:
			err = Unsupported(alg, key)
		}
		return err
	})
	return out, err
}

// Export wraps the material to a key: PKCS #8 of RSA and EC, the bytes of an AES key.
func (s *Software) Export(_ context.Context, at Address, m Material, form keywrap.Form, kek *rsa.PublicKey) ([]byte, error) {
	plain, err := unseal(s.seal.material, m.Handle, []byte(at.String()))
	if err != nil {
		return nil, fmt.Errorf("material of %s: %w", at, err)
	}
	defer clear(plain)
	return keywrap.Wrap(form, kek, plain)
}
