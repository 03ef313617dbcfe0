package keystore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/argon2"

	"cloister.dev/cloister/evidence"
)

// The file: the magic line, a line of JSON (header), a nonce of 12 bytes, AES-256-GCM over the contents. Magic and
// header are authenticated with it.
const magic = "CLOISTER KEYSTORE 2\n"

// Cost is how hard it is to guess the passphrase (argon2id).
type Cost struct {
	Time      uint32 `json:"time"`
	MemoryKiB uint32 `json:"memoryKiB"`
	Threads   uint8  `json:"threads"`
}

// DefaultCost is the second recommendation of RFC 9106, section 4.
var DefaultCost = Cost{Time: 3, MemoryKiB: 64 << 10, Threads: 4}

// check bounds what a file may ask for: a file that somebody changed must not take all memory.
func (c Cost) check() error {
	if c.Time < 1 || c.Time > 64 || c.MemoryKiB < 8*uint32(c.Threads) || c.MemoryKiB > 1<<20 || c.Threads < 1 {
		return evidence.Refuse(evidence.CodeParse, "keystore header", fmt.Sprintf("%+v", c), "a cost of argon2id within bounds")
	}
	return nil
}

type header struct {
	Cost
	Salt []byte `json:"salt"` // 16 bytes
}

// sealer holds the keys that follow from the passphrase: one for the file, one for key material inside it, one for the
// anchor beside it. Material so stays sealed in memory until it is used.
type sealer struct {
	head           header
	file, material cipher.AEAD
	anchor         []byte // HMAC-SHA256
}

func newSealer(passphrase []byte, head header) (*sealer, error) {
	if err := head.Cost.check(); err != nil {
		return nil, err
	}
	if len(head.Salt) != 16 {
		return nil, evidence.Refuse(evidence.CodeParse, "keystore salt", fmt.Sprintf("%d bytes", len(head.Salt)), "16")
	}
	master := argon2.IDKey(passphrase, head.Salt, head.Time, head.MemoryKiB, head.Threads, 32)
	defer clear(master)
	s := &sealer{head: head}
	for _, k := range []struct {
		info string
		to   *cipher.AEAD
	}{{"cloister keystore file", &s.file}, {"cloister keystore material", &s.material}} {
		key, err := hkdf.Key(sha256.New, master, nil, k.info, 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		clear(key)
		if err != nil {
			return nil, err
		}
		if *k.to, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	var err error
	s.anchor, err = hkdf.Key(sha256.New, master, nil, "cloister keystore anchor", 32)
	return s, err
}

func freshHeader(c Cost) (header, error) {
	h := header{Cost: c, Salt: make([]byte, 16)}
	_, err := rand.Read(h.Salt)
	return h, err
}

func seal(a cipher.AEAD, plain, aad []byte) ([]byte, error) {
	nonce := make([]byte, a.NonceSize(), a.NonceSize()+len(plain)+a.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return a.Seal(nonce, nonce, plain, aad), nil
}

func unseal(a cipher.AEAD, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < a.NonceSize() {
		return nil, evidence.Refuse(evidence.CodeParse, "keystore", fmt.Sprintf("%d bytes", len(sealed)), "a nonce at least")
	}
	out, err := a.Open(nil, sealed[:a.NonceSize()], sealed[a.NonceSize():], aad)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "keystore", "does not decrypt", "a keystore written under this passphrase, unchanged")
	}
	return out, nil
}

func (s *sealer) prefix() ([]byte, error) {
	h, err := json.Marshal(s.head)
	return append([]byte(magic), append(h, '\n')...), err
}

func (s *sealer) sealFile(plain []byte) ([]byte, error) {
	prefix, err := s.prefix()
	if err != nil {
		return nil, err
	}
	body, err := seal(s.file, plain, prefix)
	return append(prefix, body...), err
}

// openFile reads a file and makes the sealer that belongs to it.
func openFile(raw, passphrase []byte) (*sealer, []byte, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	line, body, cut := bytes.Cut(rest, []byte("\n"))
	if !ok || !cut || len(line) > 1024 {
		return nil, nil, evidence.Refuse(evidence.CodeParse, "keystore", "another kind of file", "a file that begins with "+magic[:len(magic)-1])
	}
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, "keystore header", err.Error(), "JSON")
	}
	s, err := newSealer(passphrase, h)
	if err != nil {
		return nil, nil, err
	}
	plain, err := unseal(s.file, body, raw[:len(raw)-len(body)])
	return s, plain, err
}
