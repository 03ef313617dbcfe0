package image

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/secureboot"
	"cloister.dev/cloister/image/uki"
	"cloister.dev/cloister/image/verity"
)

var table = verity.Table{DataBlocks: 256, HashStart: 1, RootHash: [32]byte{1}, Salt: []byte{2}}

// maker makes small images that pass Check, so that each row can spoil one thing.
type maker struct {
	keys        *secureboot.Keys
	stub, empty []byte
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	keys, err := secureboot.EnsureKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stub, err := os.ReadFile(DefaultStub)
	if err != nil {
		t.Fatalf("%v: install systemd-boot-efi", err)
	}
	empty, err := os.ReadFile(DefaultVars)
	if err != nil {
		t.Fatalf("%v: install ovmf", err)
	}
	return &maker{keys, stub, empty}
}

func (k *maker) pe(t *testing.T, line string, leaveOut ...string) []byte {
	t.Helper()
	var sections []uki.Section
next:
	for _, s := range []uki.Section{{Name: ".osrel", Data: []byte("ID=x")}, {Name: ".cmdline", Data: []byte(line)}, {Name: ".initrd", Data: []byte("initrd")}, {Name: ".linux", Data: []byte("kernel")}} {
		for _, n := range leaveOut {
			if n == s.Name {
				continue next
			}
		}
		sections = append(sections, s)
	}
	pe, err := uki.Assemble(k.stub, sections)
	if err != nil {
		t.Fatal(err)
	}
	return pe
}

func (k *maker) sign(t *testing.T, pe []byte, keys *secureboot.Keys) []byte {
	t.Helper()
	out, err := uki.Sign(pe, keys.DB.Private, keys.DB.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// write makes an image of pe, with a manifest that agrees with the files.
func (k *maker) write(t *testing.T, pe []byte, line string) (string, *Manifest) {
	t.Helper()
	dir := t.TempDir()
	vars, err := secureboot.VariableStore(k.empty, k.keys)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{
		Format: ManifestVersion, Name: Default, Version: version, Stub: "", CommandLine: line, Verity: table.String(),
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.keys.DB.Certificate.Raw})),
		Guests:      guestsOf(""),
	}
	if m.Stub, err = uki.StubVersion(k.stub); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		to   *File
		name string
		data []byte
	}{{&m.UKI, "uki.efi", pe}, {&m.Vars, "vars.fd", vars}, {&m.Disk, "disk.img", []byte("disk")}} {
		p := filepath.Join(dir, f.name)
		if err := os.WriteFile(p, f.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if *f.to, err = describe(p); err != nil {
			t.Fatal(err)
		}
	}
	store(t, dir, m)
	return dir, m
}

func store(t *testing.T, dir string, m *Manifest) {
	t.Helper()
	var err error
	if m.Digest, err = m.computeDigest(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkDir(dir string) error {
	m, err := Load(dir)
	if err != nil {
		return err
	}
	return m.Check(dir)
}

func TestCheckPolicy(t *testing.T) {
	k := newMaker(t)
	other, err := secureboot.EnsureKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	good := CommandLine(table)
	verityPart := verityWord + table.CommandLine()
	dir, _ := k.write(t, k.sign(t, k.pe(t, good), k.keys), good)
	if err := checkDir(dir); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	for _, c := range []struct {
		name, line string
		pe         func(line string) []byte
		want       evidence.Code
	}{
		{"HD-13 unsigned", good, func(l string) []byte { return k.pe(t, l) }, evidence.CodeChain},
		{"HD-13 signed by another key", good, func(l string) []byte { return k.sign(t, k.pe(t, l), other) }, evidence.CodeChain},
		{"HD-13 changed after signing", good, func(l string) []byte { b := k.sign(t, k.pe(t, l), k.keys); b[0x700] ^= 1; return b }, evidence.CodeBinding},
		{"HD-06 host credentials not refused", strings.Replace(good, noCredentials+" ", "", 1), nil, evidence.CodeConfig},
		{"HD-06 host credentials allowed", strings.Replace(good, noCredentials, "systemd.import_credentials=yes", 1), nil, evidence.CodeConfig},
		{"HD-06 host credentials allowed again", strings.Replace(good, noCredentials, noCredentials+" systemd.import_credentials=1", 1), nil, evidence.CodeConfig},
		{"HD-06 only a longer word", strings.Replace(good, noCredentials, "x"+noCredentials, 1), nil, evidence.CodeConfig},
		{"HD-03 no hash tree", strings.TrimSuffix(good, " "+verityPart), nil, evidence.CodeConfig},
		{"HD-03 hash tree switched off", strings.Replace(good, verityPart, "cloister.verity=off", 1), nil, evidence.CodeParse},
		{"HD-03 two hash trees", good + " " + verityPart, nil, evidence.CodeConfig},
		{"HD-11 another init", "init=/bin/sh " + good, nil, evidence.CodeConfig},
		{"HD-11 emergency shell", "emergency " + good, nil, evidence.CodeConfig},
		{"HD-11 rescue target", "systemd.unit=rescue.target " + good, nil, evidence.CodeConfig},
		{"HD-11 debug shell", "systemd.debug_shell=1 " + good, nil, evidence.CodeConfig},
		{"no initrd", good, func(l string) []byte { return k.sign(t, k.pe(t, l, ".initrd"), k.keys) }, evidence.CodeConfig},
		{"no kernel", good, func(l string) []byte { return k.sign(t, k.pe(t, l, ".linux"), k.keys) }, evidence.CodeConfig},
		{"no command line", good, func(l string) []byte { return k.sign(t, k.pe(t, l, ".cmdline"), k.keys) }, evidence.CodeConfig},
		{"HD-17 other command line than the manifest's", good, func(l string) []byte { return k.sign(t, k.pe(t, "quiet "+l), k.keys) }, evidence.CodeMeasurement},
		{"HD-17 other hash tree than the manifest's", strings.Replace(good, "_256_", "_257_", 1), nil, evidence.CodeMeasurement},
	} {
		t.Run(c.name, func(t *testing.T) {
			pe := c.pe
			if pe == nil {
				pe = func(l string) []byte { return k.sign(t, k.pe(t, l), k.keys) }
			}
			dir, _ := k.write(t, pe(c.line), c.line)
			if err := checkDir(dir); evidence.CodeOf(err) != c.want {
				t.Errorf("err %v, want %s", err, c.want)
			}
		})
	}
}

func TestCheckFiles(t *testing.T) {
	k := newMaker(t)
	good := CommandLine(table)
	pe := k.sign(t, k.pe(t, good), k.keys)
	for _, c := range []struct {
		name  string
		spoil func(dir string, m *Manifest)
		want  evidence.Code
	}{
		{"nothing", func(string, *Manifest) {}, ""},
		{"HD-17 other disk", func(d string, _ *Manifest) { put(t, d, "disk.img", "dusk") }, evidence.CodeMeasurement},
		{"longer disk", func(d string, _ *Manifest) { put(t, d, "disk.img", "disk\x00") }, evidence.CodeMeasurement},
		{"other variables", func(d string, _ *Manifest) { put(t, d, "vars.fd", string(k.empty)) }, evidence.CodeMeasurement},
		{"other kernel image", func(d string, _ *Manifest) { put(t, d, "uki.efi", "x") }, evidence.CodeMeasurement},
		{"variables without the certificate", func(d string, m *Manifest) {
			put(t, d, "vars.fd", string(k.empty))
			m.Vars, _ = describe(filepath.Join(d, "vars.fd"))
			store(t, d, m)
		}, evidence.CodeChain},
		{"manifest changed", func(d string, m *Manifest) {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile))
			put(t, d, ManifestFile, strings.Replace(string(b), `"name":"debian-12"`, `"name":"debian-13"`, 1))
		}, evidence.CodeMeasurement},
		{"no digest", func(d string, m *Manifest) { m.Digest = ""; rewrite(t, d, m) }, evidence.CodeMeasurement},
		{"another format", func(d string, m *Manifest) { m.Format = "cloister.image/0"; store(t, d, m) }, evidence.CodeUnsupported},
		{"no format", func(d string, m *Manifest) { m.Format = ""; store(t, d, m) }, evidence.CodeUnsupported},
		{"unknown member", func(d string, _ *Manifest) { put(t, d, ManifestFile, `{"format":"cloister.image/1","skip":true}`) }, evidence.CodeParse},
		{"two manifests", func(d string, m *Manifest) {
			b, _ := os.ReadFile(filepath.Join(d, ManifestFile))
			put(t, d, ManifestFile, string(b)+string(b))
		}, evidence.CodeParse},
		{"SVC-12 file outside", func(d string, m *Manifest) { m.Disk.Name = "../disk.img"; store(t, d, m) }, evidence.CodeParse},
		{"no digest of a file", func(d string, m *Manifest) { m.UKI.SHA256 = ""; store(t, d, m) }, evidence.CodeParse},
		{"no certificate", func(d string, m *Manifest) { m.Certificate = ""; store(t, d, m) }, evidence.CodeParse},
		{"other stub", func(d string, m *Manifest) { m.Stub = "257"; store(t, d, m) }, evidence.CodeMeasurement},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, m := k.write(t, pe, good)
			c.spoil(dir, m)
			if err := checkDir(dir); evidence.CodeOf(err) != c.want || (c.want == "") != (err == nil) {
				t.Errorf("err %v, want %q", err, c.want)
			}
		})
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rewrite(t *testing.T, dir string, m *Manifest) {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, ManifestFile, string(b))
}

func TestSupports(t *testing.T) {
	m := &Manifest{Guests: guestsOf("CONFIG_SEV_GUEST=m\n# CONFIG_TDX_GUEST_DRIVER is not set\n")}
	for tee, want := range map[string]evidence.Code{"software": "", "sevsnp": "", "tdx": evidence.CodeUnsupported, "": evidence.CodeUnsupported, "sgx": evidence.CodeUnsupported} {
		if err := m.Supports(tee); evidence.CodeOf(err) != want {
			t.Errorf("%q: %v, want %q", tee, err, want)
		}
	}
}

func TestPath(t *testing.T) {
	k := newMaker(t)
	good := CommandLine(table)
	dir, _ := k.write(t, k.sign(t, k.pe(t, good), k.keys), good)
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Path(KindDisk); got != filepath.Join(dir, "disk.img") {
		t.Errorf("path %s", got)
	}
	if got := m.Path("kernel"); got != "" {
		t.Errorf("path %s of an unknown kind", got)
	}
}

// A build that ends early leaves nothing but the keys and an empty cache.
func TestBuildLeavesNothingBehind(t *testing.T) {
	k := newMaker(t)
	base := t.TempDir()
	put(t, base, "guest", "\x7fELF")
	put(t, base, "stub", string(k.stub))
	o := BuildOptions{Out: filepath.Join(base, "out", "img"), GuestBinary: filepath.Join(base, "guest"), SecureBootKeys: filepath.Join(base, "keys"), Stub: filepath.Join(base, "stub"), Mirror: "file:///nonexistent"}
	ctx, cancel := context.WithCancel(context.Background())
	o.Progress = func(string) { cancel() }
	if _, err := Build(ctx, o); err == nil {
		t.Fatal("a cancelled build succeeded")
	}
	if _, err := os.Stat(o.Out); !os.IsNotExist(err) {
		t.Errorf("the image's folder is there: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(base, "out", ".cache"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v (%v)", left, err)
	}
	for name, spoil := range map[string]func(*BuildOptions){
		"no out":    func(o *BuildOptions) { o.Out = "" },
		"no guest":  func(o *BuildOptions) { o.GuestBinary = "" },
		"no keys":   func(o *BuildOptions) { o.SecureBootKeys = "" },
		"bad name":  func(o *BuildOptions) { o.Name = "../x" },
		"lost stub": func(o *BuildOptions) { o.Stub = filepath.Join(base, "none") },
	} {
		bad := o
		spoil(&bad)
		if _, err := Build(context.Background(), bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
