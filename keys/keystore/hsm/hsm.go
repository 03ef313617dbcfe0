// Package hsm keeps key material in a token that speaks PKCS #11. Records stay with another backend, encrypted and
// authenticated there; what lies in the token is found by an id and a label that names the key and the version.
//
// The token keeps material from leaving in clear. It knows nothing of release policies: who holds its PIN can use
// every key in it, and it is the key service that decides.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/keystore"
)

var (
	afterGenerate = failpoint.New("keys/hsm-key-generated")
	beforeDestroy = failpoint.New("keys/hsm-key-unreferenced")
)

// Config says which token, and what may happen in memory where the token can't do it.
type Config struct {
	Module string // path of the PKCS #11 library
	Token  string // the token's label
	PIN    []byte // of the normal user; cleared after Open
	// InMemory names what may be done in this process's memory where the token lacks a mechanism. Nothing else is.
	InMemory []InMemory
	// Sessions bounds how many operations the token works on at once; 0: DefaultSessions.
	Sessions int
}

// DefaultSessions is how many sessions are kept open.
const DefaultSessions = 8

// InMemory is something that is done outside the token.
type InMemory string

const (
	// OAEPPadding: the token decrypts without padding, and the padding of RSA-OAEP-256 is taken off in memory. The
	// private key stays in the token; the padded block passes through memory beside the plaintext.
	OAEPPadding InMemory = "RSA-OAEP-256"
	// ReleaseWrapping: for a release, the ephemeral AES key is made and wrapped in memory, and the token wraps the released key
	// under it. The released key itself never is in memory in clear.
	ReleaseWrapping InMemory = "RSA-AES-KEY-WRAP"
)

// Known lists what InMemory may name.
var Known = []InMemory{OAEPPadding, ReleaseWrapping}

// Records is what keeps the records: all of a Backend but its material.
type Records interface {
	Get(ctx context.Context, id keystore.ID) (*keystore.Key, error)
	List(ctx context.Context, vault keystore.VaultID) ([]*keystore.Key, error)
	Update(ctx context.Context, id keystore.ID, change keystore.Change) error
	Epoch() uint64
	Close() error
}

// Backend is a keystore.Backend whose material is in a token.
type Backend struct {
	Records
	ctx    *pkcs11.Ctx
	slot   uint
	pool   chan pkcs11.SessionHandle
	login  pkcs11.SessionHandle // holds the login while the pool's sessions come and go
	may    map[InMemory]bool
	has    abilities
	closed sync.Once
}

var _ keystore.Backend = (*Backend)(nil)

// Open logs in to a token, finds out what it can do, and refuses one that can't do what is needed unless InMemory says
// what may be done instead.
func Open(c Config, records Records) (_ *Backend, err error) {
	defer clear(c.PIN)
	may := map[InMemory]bool{}
	for _, m := range c.InMemory {
		if !slices.Contains(Known, m) {
			return nil, evidence.Refuse(evidence.CodePolicy, "inMemory", string(m), fmt.Sprintf("one of %q", Known))
		}
		may[m] = true
	}
	if c.Token == "" || len(c.PIN) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "PKCS #11 token", "no label or no PIN", "both")
	}
	ctx := pkcs11.New(c.Module)
	if ctx == nil {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "PKCS #11 module", c.Module+" cannot be loaded", "a shared library that speaks PKCS #11")
	}
	if err := ctx.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		ctx.Destroy()
		return nil, fmt.Errorf("starting PKCS #11 module %s: %w", c.Module, err)
	}
	b := &Backend{Records: records, ctx: ctx, may: may}
	defer func() {
		if err != nil {
			b.end()
		}
	}()
	if b.slot, err = find(ctx, c.Token); err != nil {
		return nil, err
	}
	if b.login, err = ctx.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return nil, fmt.Errorf("opening a session with token %q: %w", c.Token, err)
	}
	if err := ctx.Login(b.login, pkcs11.CKU_USER, string(c.PIN)); err != nil && !is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil, refusedLogin(c.Token, err)
	}
	n := c.Sessions
	if n == 0 {
		n = DefaultSessions
	}
	b.pool = make(chan pkcs11.SessionHandle, n)
	for range n {
		s, err := ctx.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return nil, fmt.Errorf("opening a session with token %q: %w", c.Token, err)
		}
		b.pool <- s
	}
	if b.has, err = b.probe(); err != nil {
		return nil, err
	}
	if missing := b.Missing(); len(missing) > 0 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "token "+c.Token, fmt.Sprintf("lacks %q", missing), "those mechanisms, or their names under inMemory").By("what is done in memory must be written out")
	}
	return b, nil
}

// find finds the slot of a token by its label.
func find(ctx *pkcs11.Ctx, label string) (uint, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing tokens: %w", err)
	}
	var found []uint
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("reading a token's label: %w", err)
		}
		if info.Label == label {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return 0, evidence.Refuse(evidence.CodeUnavailable, "PKCS #11 token", fmt.Sprintf("%d tokens with the label %q", len(found), label), "one")
	}
	return found[0], nil
}

func refusedLogin(token string, err error) error {
	if is(err, pkcs11.CKR_PIN_INCORRECT) || is(err, pkcs11.CKR_PIN_LEN_RANGE) || is(err, pkcs11.CKR_PIN_LOCKED) || is(err, pkcs11.CKR_PIN_EXPIRED) {
		return evidence.Refuse(evidence.CodeAuthz, "PIN of token "+token, err.Error(), "the PIN of the token's user")
	}
	return fmt.Errorf("logging in to token %q: %w", token, err)
}

func is(err error, code uint) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && uint(e) == code
}

// with runs an operation on a session of its own. It waits for one as long as the caller does.
func (b *Backend) with(ctx context.Context, do func(s pkcs11.SessionHandle) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s := <-b.pool:
		defer func() { b.pool <- s }()
		return do(s)
	}
}

// Update changes a record, and destroys the material that no record refers to any more. That comes last: a crash in
// between leaves material that nobody can name, and never a record without its material.
func (b *Backend) Update(ctx context.Context, id keystore.ID, change keystore.Change) error {
	var before, after *keystore.Key
	err := b.Records.Update(ctx, id, func(old *keystore.Key) (*keystore.Key, error) {
		before = old.Clone()
		next, err := change(old)
		after = next.Clone()
		return next, err
	})
	if err != nil {
		return err
	}
	gone := unreferenced(before, after)
	if len(gone) == 0 {
		return nil
	}
	beforeDestroy.Hit()
	return b.with(ctx, func(s pkcs11.SessionHandle) error {
		var errs []error
		for _, h := range gone {
			errs = append(errs, b.destroy(s, h))
		}
		return errors.Join(errs...)
	})
}

// unreferenced are the handles of the old record that the new one does not have.
func unreferenced(before, after *keystore.Key) [][]byte {
	if before == nil {
		return nil
	}
	kept := map[string]bool{}
	if after != nil {
		for _, v := range after.Versions {
			kept[string(v.Material.Handle)] = true
		}
	}
	var out [][]byte
	for _, v := range before.Versions {
		if h := v.Material.Handle; len(h) > 0 && !kept[string(h)] {
			out = append(out, h)
		}
	}
	return out
}

// Close logs out and closes the records.
func (b *Backend) Close() error {
	b.end()
	return b.Records.Close()
}

func (b *Backend) end() {
	b.closed.Do(func() {
		// A module that can't end in order ends with the process: there is nothing else to do about it.
		_ = b.ctx.CloseAllSessions(b.slot)
		_ = b.ctx.Finalize()
		b.ctx.Destroy()
	})
}
