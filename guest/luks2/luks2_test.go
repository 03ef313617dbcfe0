package luks2

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

const testUUID = "8a6c1a7e-58e4-4f0c-9d3b-7f7d4a1d2c11"

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func testVolume(t testing.TB) (region, passphrase, key []byte) {
	t.Helper()
	passphrase, key = randomBytes(t, 32), randomBytes(t, VolumeKeySize)
	region, err := Format(rand.Reader, FormatOptions{UUID: testUUID, Passphrase: passphrase, VolumeKey: key, Sealed: []byte("sealed")})
	if err != nil {
		t.Fatal(err)
	}
	return region, passphrase, key
}

func TestRoundTrip(t *testing.T) {
	region, pass, key := testVolume(t)
	h, err := Read(bytes.NewReader(region))
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.VolumeKey(pass)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, key) || string(h.Sealed()) != "sealed" || h.UUID() != testUUID {
		t.Error("what was opened is not what was formatted")
	}
	if KeyDigest(key) != sha256.Sum256(key) {
		t.Error("key digest is not SHA-256 of the key")
	}
}

func TestWrongSecretsAreRefused(t *testing.T) {
	region, pass, _ := testVolume(t)
	h, err := Read(bytes.NewReader(region))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.VolumeKey(randomBytes(t, 32)); evidence.CodeOf(err) != evidence.CodeBoot {
		t.Errorf("wrong passphrase: %v", err)
	}
	region[keyslotOffset+1000] ^= 1
	if h, err = Read(bytes.NewReader(region)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.VolumeKey(pass); evidence.CodeOf(err) != evidence.CodeBoot {
		t.Errorf("changed key slot: %v", err)
	}
}

// rewrite changes the JSON text of the first copy and mends the checksum, as a host would.
func rewrite(region []byte, change func(m map[string]any)) []byte {
	out := append([]byte(nil), region...)
	var m map[string]any
	if err := json.Unmarshal(bytes.TrimRight(out[binarySize:headerSize], "\x00"), &m); err != nil {
		panic(err)
	}
	change(m)
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	clear(out[binarySize:headerSize])
	copy(out[binarySize:headerSize], text)
	mend(out)
	return out
}

func mend(region []byte) {
	clear(region[atChecksum : atChecksum+checksumLen])
	sum := sha256.Sum256(region[:headerSize])
	copy(region[atChecksum:], sum[:])
}

func at(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m = m[p].(map[string]any)
	}
	return m
}

func TestForeignHeaders(t *testing.T) {
	region, _, _ := testVolume(t)
	if _, err := Read(bytes.NewReader(region)); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	set := func(key string, value any, path ...string) func(map[string]any) {
		return func(m map[string]any) { at(m, path...)[key] = value }
	}
	for _, r := range []struct {
		name   string
		field  string
		change func(m map[string]any)
	}{
		{"HD-01 null segment cipher", "segment cipher", set("encryption", "cipher_null-ecb", "segments", "0")},
		{"HD-01 null key slot cipher", "key slot cipher", set("encryption", "cipher_null-ecb", "keyslots", "0", "area")},
		{"HD-01 foreign segment cipher", "segment cipher", set("encryption", "aes-cbc-essiv:sha256", "segments", "0")},
		{"HD-01 plaintext segment", "segment type", set("type", "linear", "segments", "0")},
		{"HD-01 extra segment", "segments", func(m map[string]any) { at(m, "segments")["1"] = at(m, "segments")["0"] }},
		{"HD-01 extra token", "tokens", func(m map[string]any) { at(m, "tokens")["1"] = at(m, "tokens")["0"] }},
		{"HD-01 no token", "tokens", func(m map[string]any) { delete(at(m, "tokens"), "0") }},
		{"HD-01 foreign token", "token type", set("type", "systemd-tpm2", "tokens", "0")},
		{"HD-01 empty token", "token", set("sealed", "", "tokens", "0")},
		{"HD-01 extra key slot", "key slots", func(m map[string]any) { at(m, "keyslots")["1"] = at(m, "keyslots")["0"] }},
		{"HD-01 extra digest", "digests", func(m map[string]any) { at(m, "digests")["1"] = at(m, "digests")["0"] }},
		{"sector size 512", "segment sector size", set("sector_size", 512, "segments", "0")},
		{"other offset", "header", set("offset", "8388608", "segments", "0")},
		{"other size", "header", set("size", "4096", "segments", "0")},
		{"other tweak", "header", set("iv_tweak", "8", "segments", "0")},
		{"reencryption under way", "requirements", set("requirements", map[string]any{"mandatory": []string{"online-reencrypt"}}, "config")},
		{"integrity added", "metadata", set("integrity", map[string]any{"type": "none"}, "segments", "0")},
		{"unknown member", "metadata", set("extra", 1)},
		{"fewer iterations in the digest", "header", set("iterations", 1, "digests", "0")},
		{"short digest salt", "salts and digest", set("salt", "AAAA", "digests", "0")},
		{"key slot elsewhere", "header", set("offset", "65536", "keyslots", "0", "area")},
		{"other kdf", "header", set("type", "argon2id", "keyslots", "0", "kdf")},
		{"same members in another order", "header", func(map[string]any) {}},
	} {
		t.Run(r.name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(rewrite(region, r.change)))
			var ref *evidence.Refusal
			if !errors.As(err, &ref) || ref.Code != evidence.CodeBoot || ref.Field != "luks2 "+r.field {
				t.Errorf("got %v, want a refusal of %q", err, r.field)
			}
		})
	}
}

func TestForeignBinaryHeaders(t *testing.T) {
	region, _, _ := testVolume(t)
	for _, r := range []struct {
		name   string
		change func(b []byte)
		mend   bool
	}{
		{"checksum not mended", func(b []byte) { b[atSalt] ^= 1 }, false},
		{"no magic", func(b []byte) { clear(b[:6]) }, true},
		{"version 1", func(b []byte) { b[atVersion+1] = 1 }, true},
		{"larger header", func(b []byte) { b[atSize+5] = 1 }, true},
		{"other sequence", func(b []byte) { b[atSequence+7] = 9 }, true},
		{"a label", func(b []byte) { copy(b[24:], "label") }, true},
		{"other checksum algorithm", func(b []byte) { copy(b[atHashName:], "sha512") }, true},
		{"uuid not a uuid", func(b []byte) { copy(b[atUUID:], "/../") }, true},
		{"bytes in the padding", func(b []byte) { b[600] = 1 }, true},
		{"bytes after the JSON", func(b []byte) { b[headerSize-1] = 'x' }, true},
		{"empty disk", func(b []byte) { clear(b) }, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := append([]byte(nil), region...)
			r.change(b)
			if r.mend {
				mend(b)
			}
			if _, err := Read(bytes.NewReader(b)); evidence.CodeOf(err) != evidence.CodeBoot {
				t.Errorf("got %v, want fail/boot", err)
			}
		})
	}
	if _, err := Read(bytes.NewReader(region[:Region-1])); err == nil {
		t.Error("a short device was accepted")
	}
}

// turncoat gives the good header at the first read and another one afterwards.
type turncoat struct{ good, bad io.ReaderAt }

func (d *turncoat) ReadAt(b []byte, off int64) (int, error) {
	r := d.good
	d.good = d.bad
	return r.ReadAt(b, off)
}

func TestHD02SecondReadCannotMatter(t *testing.T) {
	good, pass, key := testVolume(t)
	bad, _, _ := testVolume(t)
	h, err := Read(&turncoat{bytes.NewReader(good), bytes.NewReader(bad)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.VolumeKey(pass)
	if err != nil || !bytes.Equal(got, key) {
		t.Errorf("the key is not that of the checked copy: %v", err)
	}
}

func TestCryptsetupAccepts(t *testing.T) {
	cryptsetup, err := exec.LookPath("cryptsetup")
	if err != nil {
		t.Fatal("cryptsetup is missing: install the package cryptsetup-bin")
	}
	region, pass, key := testVolume(t)
	img, passFile, keyFile := filepath.Join(t.TempDir(), "img"), filepath.Join(t.TempDir(), "pass"), filepath.Join(t.TempDir(), "key")
	for name, b := range map[string][]byte{img: region, passFile: pass} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(img, DataOffset+1<<20); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.Command(cryptsetup, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("cryptsetup %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("isLuks", "--type", "luks2", img)
	dump := run("luksDump", img)
	for _, want := range []string{testUUID, Cipher, "sector: 4096", TokenType} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump lacks %q:\n%s", want, dump)
		}
	}
	run("open", "--test-passphrase", "--key-file", passFile, img)
	run("luksDump", "-q", "--dump-volume-key", "--volume-key-file", keyFile, "--key-file", passFile, img)
	if got, err := os.ReadFile(keyFile); err != nil || !bytes.Equal(got, key) {
		t.Errorf("cryptsetup finds another volume key: %v", err)
	}
	t.Run("HD-01 a key slot added by cryptsetup", func(t *testing.T) {
		second := filepath.Join(t.TempDir(), "second")
		if err := os.WriteFile(second, randomBytes(t, 32), 0o600); err != nil {
			t.Fatal(err)
		}
		run("luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", passFile, img, second)
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := Read(f); evidence.CodeOf(err) != evidence.CodeBoot {
			t.Errorf("got %v, want fail/boot", err)
		}
	})
}

func TestFormatRefuses(t *testing.T) {
	good := FormatOptions{UUID: testUUID, Passphrase: make([]byte, 32), VolumeKey: make([]byte, 64), Sealed: []byte{1}}
	for name, change := range map[string]func(*FormatOptions){
		"short passphrase": func(o *FormatOptions) { o.Passphrase = o.Passphrase[:31] },
		"short key":        func(o *FormatOptions) { o.VolumeKey = o.VolumeKey[:32] },
		"nothing sealed":   func(o *FormatOptions) { o.Sealed = nil },
		"too much sealed":  func(o *FormatOptions) { o.Sealed = make([]byte, MaxToken+1) },
		"no uuid":          func(o *FormatOptions) { o.UUID = "" },
	} {
		o := good
		change(&o)
		if _, err := Format(rand.Reader, o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	good.Sealed = make([]byte, MaxToken)
	if _, err := Format(rand.Reader, good); err != nil {
		t.Errorf("the largest token does not fit: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	region, _, _ := testVolume(f)
	f.Add(region[:headerSize])
	f.Add([]byte(fmt.Sprintf("LUKS\xba\xbe%0500d", 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := make([]byte, headerSize)
		copy(h, b)
		if len(b) > binarySize {
			mend(h) // else the checksum hides the parser
		}
		_, _ = decode(h)
	})
}
