package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
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
// Setting back the whole file is seen by its anchor. Each change writes the whole file.
type Software struct {
	files  Files
	seal   *sealer
	lock   *os.File
	anchor *os.File
	mu     sync.RWMutex
	keys   map[string]*Key // by folded id
	at     mark            // of the file
	epoch  uint64          // restores before; stays as it is
	broken error           // set when it is unknown which state is on disk
	opened opened          // private keys that were used just now
}

var _ Backend = (*Software)(nil)

// Files are where a keystore lies: the encrypted file, and the anchor that says which state of it is the latest.
type Files struct{ Store, Anchor string }

// In names the anchor after the keystore, in the same folder.
func In(store string) Files { return Files{store, store + ".anchor"} }

// contents are what the file seals.
type contents struct {
	Serial uint64          `json:"serial"` // of the write, from 0
	Epoch  uint64          `json:"epoch"`  // restores before it
	Keys   map[string]*Key `json:"keys"`   // by folded id
}

// OpenSoftware opens a keystore file, or makes an empty one where there is none. The cost counts for a new file only. A file
// that is older than its anchor is refused: RestoreSoftware declares it restored.
func OpenSoftware(files Files, passphrase []byte, cost Cost) (*Software, error) {
	lock, err := lockStore(files.Store, passphrase)
	if err != nil {
		return nil, err
	}
	s := &Software{files: files, lock: lock, keys: map[string]*Key{}}
	if err := s.load(passphrase, cost); err != nil {
		return nil, errors.Join(fmt.Errorf("opening keystore %s: %w", files.Store, err), s.Close())
	}
	return s, nil
}

// lockStore keeps other processes from the keystore until the file is closed.
func lockStore(path string, passphrase []byte) (*os.File, error) {
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
	return lock, nil
}

func (s *Software) load(passphrase []byte, cost Cost) error {
	raw, err := os.ReadFile(s.files.Store)
	if errors.Is(err, fs.ErrNotExist) {
		return s.begin(passphrase, cost)
	}
	if err != nil {
		return err
	}
	seal, c, err := readStore(raw, passphrase)
	if err != nil {
		return err
	}
	known, err := readAnchor(s.files.Anchor, seal.anchor)
	if err != nil {
		return err
	}
	s.seal, s.keys, s.at = seal, c.Keys, mark{c.Serial, c.Epoch, sha256.Sum256(raw)}
	s.epoch = c.Epoch
	if err := follows(s.at, known); err != nil {
		return err
	}
	return s.openAnchor(known)
}

// begin makes a new keystore. An anchor without one says that the keystore was lost.
func (s *Software) begin(passphrase []byte, cost Cost) error {
	if _, err := os.Stat(s.files.Anchor); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, evidence.Refuse(evidence.CodeBinding, "keystore", "none, beside an anchor of one", "the keystore, or one "+declared))
	}
	head, err := freshHeader(cost)
	if err != nil {
		return err
	}
	if s.seal, err = newSealer(passphrase, head); err != nil {
		return err
	}
	if s.at, err = writeStore(s.files.Store, s.seal, contents{Keys: s.keys}); err != nil {
		return err
	}
	return s.openAnchor(nil)
}

// openAnchor opens the anchor for the writes to come, and has it say what the keystore is now.
func (s *Software) openAnchor(known *mark) (err error) {
	if known == nil {
		if err := placeAnchor(s.files.Anchor, s.seal.anchor, s.at); err != nil {
			return fmt.Errorf("making the keystore's anchor: %w", err)
		}
		known = &s.at
	}
	if s.anchor, err = os.OpenFile(s.files.Anchor, os.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening the keystore's anchor: %w", err)
	}
	if *known != s.at {
		return moveAnchor(s.anchor, s.seal.anchor, s.at)
	}
	return nil
}

// readStore opens a file's seal.
func readStore(raw, passphrase []byte) (*sealer, *contents, error) {
	seal, plain, err := openFile(raw, passphrase)
	if err != nil {
		return nil, nil, err
	}
	defer clear(plain)
	var c contents
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, nil, fmt.Errorf("reading records: %w", err)
	}
	if c.Keys == nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, "keystore", "no records", "records")
	}
	return seal, &c, nil
}

// write makes a state durable, first in the file, then in the anchor.
func (s *Software) write(keys map[string]*Key) error {
	at, err := writeStore(s.files.Store, s.seal, contents{Serial: s.at.serial + 1, Epoch: s.epoch, Keys: keys})
	if err == nil {
		err = moveAnchor(s.anchor, s.seal.anchor, at)
	} else if !errors.Is(err, errDoubt) {
		return err
	}
	if err != nil {
		// What was written may or may not survive a crash: nothing more is decided on a state that is in doubt.
		s.broken = fmt.Errorf("keystore is in doubt since a flush failed; restart keys: %w", err)
		return s.broken
	}
	s.at = at
	return nil
}

var errDoubt = errors.New("the new file may be there or not")

// writeStore puts a new file in the old one's place: written, flushed, renamed, and its folder flushed.
func writeStore(path string, seal *sealer, c contents) (mark, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return mark{}, err
	}
	raw, err := seal.sealFile(plain)
	clear(plain)
	if err != nil {
		return mark{}, err
	}
	if err := writeSynced(path+".new", raw); err != nil {
		return mark{}, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return mark{}, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return mark{}, errors.Join(errDoubt, err)
	}
	afterWrite.Hit()
	return mark{c.Serial, c.Epoch, sha256.Sum256(raw)}, nil
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
func (s *Software) Close() error {
	s.opened.drop()
	var err error
	if s.anchor != nil {
		err = s.anchor.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Epoch tells how often the records were restored from a backup.
func (s *Software) Epoch() uint64 { return s.epoch }

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
func (s *Software) List(_ context.Context, vault VaultID) ([]*Key, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Key
	for _, k := range s.keys {
		if k.ID.Vault.Same(vault) {
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
	return seal(s.seal.file, plain, []byte(archived+k.ID.Vault.folded()))
}

// Unarchive opens what Archive sealed for a vault.
func (s *Software) Unarchive(vault VaultID, sealed []byte) (*Key, error) {
	plain, err := unseal(s.seal.file, sealed, []byte(archived+vault.folded()))
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	var k Key
	if err := json.Unmarshal(plain, &k); err != nil {
		return nil, fmt.Errorf("reading a backup: %w", err)
	}
	if !k.ID.Vault.Same(vault) {
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
	name := m.name(at)
	if key := s.opened.get(name); key != nil {
		return do(key)
	}
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
	s.opened.put(name, key)
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
