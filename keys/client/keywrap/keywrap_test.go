package keywrap

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
)

// The check values of RFC 5649 section 6.
func TestRFC5649(t *testing.T) {
	kek := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for _, r := range []struct{ key, wrapped string }{
		{"c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"},
		{"466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"},
	} {
		got, err := WrapPadded(kek, unhex(t, r.key))
		if err != nil || hex.EncodeToString(got) != r.wrapped {
			t.Errorf("wrap: %x, %v", got, err)
		}
		back, err := UnwrapPadded(kek, got)
		if err != nil || hex.EncodeToString(back) != r.key {
			t.Errorf("unwrap: %x, %v", back, err)
		}
	}
}

// RFC 3394 section 4.6.
func TestRFC3394(t *testing.T) {
	kek := unhex(t, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	key := unhex(t, "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	got, err := WrapExact(kek, key)
	if err != nil || hex.EncodeToString(got) != "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21" {
		t.Fatalf("wrap: %x, %v", got, err)
	}
	if back, err := UnwrapExact(kek, got); err != nil || !bytes.Equal(back, key) {
		t.Errorf("unwrap: %x, %v", back, err)
	}
	got[5] ^= 1
	if _, err := UnwrapExact(kek, got); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("a changed bit: %v", err)
	}
}

// OpenSSL takes out what Wrap put in: an implementation that is not ours.
func TestOpenSSLUnwraps(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("this test needs the package openssl")
	}
	dir := t.TempDir()
	key := rsaKey(t, 2048)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	keyFile := write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for form, md := range map[Form]string{SHA1: "sha1", SHA256: "sha256", SHA384: "sha384"} {
		for name, target := range map[string][]byte{"32 raw bytes": bytes.Repeat([]byte{7}, 32), "PKCS #8": der} {
			t.Run(string(form)+" "+name, func(t *testing.T) {
				wrapped, err := Wrap(form, &key.PublicKey, target)
				if err != nil {
					t.Fatal(err)
				}
				if want := 256 + (len(target)+7)/8*8 + 8; len(wrapped) != want {
					t.Errorf("%d bytes, want %d", len(wrapped), want)
				}
				aesKey := run(t, "openssl", "pkeyutl", "-decrypt", "-inkey", keyFile, "-in", write("head", wrapped[:256]),
					"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+md, "-pkeyopt", "rsa_mgf1_md:"+md)
				got := run(t, "openssl", "enc", "-d", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(aesKey), "-iv", "A65959A6", "-in", write("tail", wrapped[256:]))
				if !bytes.Equal(got, target) {
					t.Error("OpenSSL got another key")
				}
				if back, err := Unwrap(form, key, wrapped); err != nil || !bytes.Equal(back, target) {
					t.Errorf("Unwrap: %v", err)
				}
			})
		}
	}
}

func TestUnwrapRefuses(t *testing.T) {
	key, other := rsaKey(t, 2048), rsaKey(t, 2048)
	target := bytes.Repeat([]byte{9}, 32)
	good, err := Wrap(SHA256, &key.PublicKey, target)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	for _, r := range []struct {
		name string
		form Form
		key  *rsa.PrivateKey
		in   []byte
		want evidence.Code
	}{
		{"as made", SHA256, key, good, ""},
		{"SVC-32 to another key", SHA256, other, good, evidence.CodeBinding},
		{"another form", SHA1, key, good, evidence.CodeBinding},
		{"an unknown form", "RAW", key, good, evidence.CodeUnsupported},
		{"a bit of the AES key", SHA256, key, flip(3), evidence.CodeBinding},
		{"a bit of the target", SHA256, key, flip(len(good) - 1), evidence.CodeBinding},
		{"cut to the AES key", SHA256, key, good[:256], evidence.CodeParse},
		{"cut inside a block", SHA256, key, good[:len(good)-1], evidence.CodeParse},
		{"a block less", SHA256, key, good[:len(good)-8], evidence.CodeBinding},
		{"empty", SHA256, key, nil, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := Unwrap(r.form, r.key, r.in)
			if evidence.CodeOf(err) != r.want || (err == nil && !bytes.Equal(got, target)) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestWrapRefusesKeys(t *testing.T) {
	good := rsaKey(t, 2048).PublicKey
	if _, err := Wrap(SHA1, &good, []byte{1}); err != nil {
		t.Fatal(err)
	}
	for name, pub := range map[string]rsa.PublicKey{
		"a short modulus":         {N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537},
		"SVC-18 a giant modulus":  {N: new(big.Int).Lsh(big.NewInt(1), 65535), E: 65537},
		"SVC-18 a giant exponent": {N: good.N, E: 1<<31 - 1},
		"exponent 3":              {N: good.N, E: 3},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Wrap(SHA1, &pub, []byte{1}); evidence.CodeOf(err) != evidence.CodeUnsupported {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzUnwrapPadded(f *testing.F) {
	kek := make([]byte, 32)
	seed, _ := WrapPadded(kek, []byte("seed"))
	f.Add(seed)
	f.Fuzz(func(t *testing.T, in []byte) {
		if out, err := UnwrapPadded(kek, in); err == nil {
			again, err := WrapPadded(kek, out)
			if err != nil || !bytes.Equal(again, in) {
				t.Error("what was unwrapped wraps to something else")
			}
		}
	})
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.String())
	}
	return out
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
