package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/hsm"
	"cloister.dev/cloister/keys/keystore/hsm/softhsmtest"
)

// keyOperations measures the key keeper's use of keys beside the arithmetic alone, its log beside a flush for each entry, and
// releases beside what each can't do without.
func keyOperations(ctx context.Context, _ cli, dir string) ([]row, error) {
	rows, err := softwareKeys(ctx, dir)
	if err != nil {
		return nil, err
	}
	more, err := tokenKeys(ctx, dir)
	if err != nil {
		return nil, err
	}
	rows = append(rows, more...)
	if more, err = auditLog(dir); err != nil {
		return nil, err
	}
	rows = append(rows, more...)
	if more, err = releases(ctx, dir); err != nil {
		return nil, err
	}
	return append(rows, more...), nil
}

var cheap = keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1}

func openStore(dir, name string) (*keystore.Software, error) {
	return keystore.OpenSoftware(keystore.In(filepath.Join(dir, name)), []byte("a passphrase of the benchmark"), cheap)
}

// made is a key of a backend with its address.
type made struct {
	at keystore.Address
	m  keystore.Material
}

func makeKey(ctx context.Context, b keystore.Backend, name string, spec keystore.Spec) (made, error) {
	at := keystore.Address{Key: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "bench"}, Name: name}, Version: "1"}
	m, err := b.Generate(ctx, at, spec)
	return made{at, m}, err
}

// pair is one comparison, measured in turns.
type pair struct {
	name, target, beside string
	ours, reference      func(*testing.B)
}

func compare(pairs []pair) ([]row, error) {
	var rows []row
	for _, p := range pairs {
		ours, reference := best{}, best{}
		for range turns {
			if err := ours.measure(p.ours); err != nil {
				return nil, err
			}
			if err := reference.measure(p.reference); err != nil {
				return nil, err
			}
		}
		rows = append(rows, row{Name: p.name, Ours: ours.µs(), Reference: reference.µs(), Unit: "µs", Target: p.target, Beside: p.beside})
	}
	return rows, nil
}

// loop is a benchmark of one call.
func loop(call func() error) func(*testing.B) {
	return func(b *testing.B) {
		for b.Loop() {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func softwareKeys(ctx context.Context, dir string) (_ []row, err error) {
	b, err := openStore(dir, "software")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	digest := sha256.Sum256([]byte("bench"))
	rk, err := makeKey(ctx, b, "rsa", keystore.Spec{Kty: "RSA", Bits: 2048})
	if err != nil {
		return nil, err
	}
	ek, err := makeKey(ctx, b, "ec", keystore.Spec{Kty: "EC", Crv: "P-256"})
	if err != nil {
		return nil, err
	}
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ak, err := makeKey(ctx, b, "aes", keystore.Spec{Kty: "oct-HSM", Bits: 256})
	if err != nil {
		return nil, err
	}
	underAES, err := b.Encrypt(ctx, ak.at, ak.m, "A256KW", digest[:], keystore.Sealed{})
	if err != nil {
		return nil, err
	}
	sealed, err := b.Encrypt(ctx, rk.at, rk.m, "RSA-OAEP-256", digest[:], keystore.Sealed{})
	if err != nil {
		return nil, err
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &own.PublicKey, digest[:], nil)
	if err != nil {
		return nil, err
	}
	return compare([]pair{
		{"sign RS256, software keystore", "1.2 or less", "crypto/rsa alone",
			loop(func() error { _, err := b.Sign(ctx, rk.at, rk.m, "RS256", digest[:]); return err }),
			loop(func() error { _, err := rsa.SignPKCS1v15(nil, own, crypto.SHA256, digest[:]); return err })},
		{"unwrap RSA-OAEP-256, software keystore (a Managed HSM pool: 1,100 a second, published)", "1.2 or less", "crypto/rsa alone",
			loop(func() error { _, err := b.Decrypt(ctx, rk.at, rk.m, "RSA-OAEP-256", sealed); return err }),
			loop(func() error { _, err := rsa.DecryptOAEP(sha256.New(), nil, own, wrapped, nil); return err })},
		{"unwrap A256KW, software keystore (a Managed HSM pool: 2,200 a second, published)", "-", "unwrap RSA-OAEP-256 here",
			loop(func() error { _, err := b.Decrypt(ctx, ak.at, ak.m, "A256KW", underAES); return err }),
			loop(func() error { _, err := b.Decrypt(ctx, rk.at, rk.m, "RSA-OAEP-256", sealed); return err })},
		{"sign ES256, software keystore", "1.2 or less", "crypto/ecdsa alone",
			loop(func() error { _, err := b.Sign(ctx, ek.at, ek.m, "ES256", digest[:]); return err }),
			loop(func() error { _, err := ecdsa.SignASN1(rand.Reader, ec, digest[:]); return err })},
	})
}

// newToken makes a SoftHSM token.
func newToken(ctx context.Context, dir string) (softhsmtest.Token, error) {
	token := softhsmtest.Token{Module: softhsmtest.Module, Label: "bench", PIN: "123456", Conf: filepath.Join(dir, "softhsm2.conf")}
	if err := os.WriteFile(token.Conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		return token, err
	}
	if err := os.Setenv("SOFTHSM2_CONF", token.Conf); err != nil {
		return token, err
	}
	out, err := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", token.Label, "--pin", token.PIN, "--so-pin", "87654321").CombinedOutput()
	if err != nil {
		return token, fmt.Errorf("SoftHSM is needed (package softhsm2): %w\n%s", err, out)
	}
	return token, nil
}

// tokenKeys compares signing by the key keeper with signing by the token's own calls, with the same key.
func tokenKeys(ctx context.Context, dir string) (_ []row, err error) {
	token, err := newToken(ctx, dir)
	if err != nil {
		return nil, err
	}
	records, err := openStore(dir, "token")
	if err != nil {
		return nil, err
	}
	b, err := hsm.Open(hsm.Config{Module: token.Module, Token: token.Label, PIN: []byte(token.PIN), InMemory: []hsm.InMemory{hsm.OAEPPadding, hsm.ReleaseWrapping}}, records)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	k, err := makeKey(ctx, b, "rsa", keystore.Spec{Kty: "RSA-HSM", Bits: 2048})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("bench"))
	alone, err := tokenAlone(token, k.m.Handle, digest[:])
	if err != nil {
		return nil, err
	}
	return compare([]pair{{"sign RS256 in a token (SoftHSM)", "1.2 or less", "the token's own C_Sign, one session",
		loop(func() error { _, err := b.Sign(ctx, k.at, k.m, "RS256", digest[:]); return err }), loop(alone)}})
}

// sha256Info is the DER prefix of a SHA-256 digest in a PKCS #1 signature (RFC 8017, section 9.2).
var sha256Info = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

// tokenAlone signs by the token's calls and nothing else. The module is the one that is loaded and logged in already.
func tokenAlone(token softhsmtest.Token, id, digest []byte) (func() error, error) {
	c := pkcs11.New(token.Module)
	if c == nil {
		return nil, fmt.Errorf("%s cannot be loaded", token.Module)
	}
	if err := c.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, err
	}
	slots, err := c.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		if err != nil {
			return nil, err
		}
		if info.Label != token.Label {
			continue
		}
		s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return nil, err
		}
		if err := c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id)}); err != nil {
			return nil, err
		}
		found, _, err := c.FindObjects(s, 2)
		if err := errors.Join(err, c.FindObjectsFinal(s)); err != nil || len(found) != 1 {
			return nil, fmt.Errorf("%d keys in the token: %w", len(found), err)
		}
		in := append(bytes.Clone(sha256Info), digest...)
		return func() error {
			if err := c.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil)}, found[0]); err != nil {
				return err
			}
			_, err := c.Sign(s, in)
			return err
		}, nil
	}
	return nil, fmt.Errorf("no token %s", token.Label)
}

const (
	logWriters = 64
	logEntries = 20_000
	plainLines = 200
)

// auditLog compares entries written by many callers at once with a flush for each line.
func auditLog(dir string) (_ []row, err error) {
	log, err := audit.Open(filepath.Join(dir, "bench-audit.jsonl"), time.Now)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	entry := audit.Entry{Event: "release", Outcome: "granted", RequestID: "00000000-0000-4000-8000-000000000000", Vault: "bench", Key: "k", Caller: "00000000-0000-4000-8000-000000000001",
		TokenSHA256: audit.Digest("token"), TokenIssuer: "https://attest.test"}
	begun := time.Now()
	failed := make(chan error, logWriters)
	var all sync.WaitGroup
	for range logWriters {
		all.Go(func() {
			for range logEntries / logWriters {
				if err := log.Write(entry); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(begun)
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	line := bytes.Repeat([]byte("x"), 500)
	begun = time.Now()
	for range plainLines {
		if _, err := f.Write(line); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
	}
	plain := time.Since(begun)
	perSecond := func(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }
	return []row{{Name: fmt.Sprintf("audit entries on disk, %d callers", logWriters), Ours: perSecond(logEntries/logWriters*logWriters, took), Reference: perSecond(plainLines, plain), Unit: "/s", Target: "1,000 or more", Beside: "a flush for each line"}}, nil
}
