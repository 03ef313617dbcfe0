package provision

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence/initdata"
)

var data = initdata.InitData{VMID: "11111111-2222-3333-4444-555555555555", Name: "web", AdminUser: "alice",
	SSHKeys: []string{"ssh-ed25519 AAAAC3Nza alice@laptop"}, CustomData: []byte("#!/bin/sh\n")}

// testRoot is the part of a distribution that matters here.
func testRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\n", "etc/group": "root:x:0:\nbob:x:1000:\n",
		"etc/shadow": "root:*:1::::::\n", "etc/gshadow": "root:*::\n", "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 image\n",
		"usr/bin/sudo": "", "usr/bin/bash": "",
	}
	for n, c := range files {
		all[n] = c
	}
	for n, c := range all {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(c), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, dir string, d initdata.InitData) (map[string][2]int, error) {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	owners := map[string][2]int{}
	s := system{Root: r, chown: func(name string, uid, gid int) error { owners[name] = [2]int{uid, gid}; return nil }}
	return owners, s.provision(d, rand.Reader)
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProvision(t *testing.T) {
	dir := testRoot(t, nil)
	owners, err := run(t, dir, data)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/hostname":                    "web\n",
		"etc/hosts":                       "127.0.0.1 localhost\n127.0.1.1 web\n",
		"etc/sudoers.d/90-cloister":       "alice ALL=(ALL:ALL) NOPASSWD:ALL\n",
		"home/alice/.ssh/authorized_keys": data.SSHKeys[0] + "\n",
		"var/lib/cloister/custom-data":    "#!/bin/sh\n",
		"var/lib/cloister/provisioned":    data.VMID + "\n",
		"etc/group":                       "root:x:0:\nbob:x:1000:\nalice:x:1001:\n",
		"etc/gshadow":                     "root:*::\nalice:!::\n",
		"etc/shadow":                      "root:*:1::::::\nalice:*:19000:0:99999:7:::\n",
		"etc/passwd":                      "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\nalice:x:1001:1001::/home/alice:/bin/bash\n",
	} {
		if got := read(t, dir, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if owners["home/alice/.ssh/authorized_keys"] != [2]int{1001, 1001} {
		t.Errorf("owners %v", owners)
	}
	if owners["etc/shadow.part"] != [2]int{os.Getuid(), os.Getgid()} {
		t.Errorf("a replaced file did not keep its owner: %v", owners)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "etc", "*.part")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	for name, want := range map[string]os.FileMode{"etc/ssh/ssh_host_ed25519_key": 0o600, "etc/sudoers.d/90-cloister": 0o440, "etc/shadow": 0o640} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	key := read(t, dir, "etc/ssh/ssh_host_ed25519_key")
	other := data
	other.Name = "changed"
	if _, err := run(t, dir, other); err != nil {
		t.Fatal(err)
	}
	if read(t, dir, "etc/ssh/ssh_host_ed25519_key") != key || read(t, dir, "etc/hostname") != "web\n" {
		t.Error("a system that was set up was set up again")
	}
}

func TestProvisionAfterACrash(t *testing.T) {
	dir := testRoot(t, nil)
	if _, err := run(t, dir, data); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, donePath)); err != nil {
		t.Fatal(err)
	}
	before := read(t, dir, "etc/passwd")
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(before[:strings.Index(before, "alice")]), 0o640); err != nil { // died before the last line
		t.Fatal(err)
	}
	if _, err := run(t, dir, data); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(read(t, dir, "etc/passwd"), "\nalice:"); n != 1 {
		t.Errorf("%d accounts", n)
	}
	if after := read(t, dir, "etc/passwd"); after != before {
		t.Errorf("accounts %q, before the crash %q", after, before)
	}
}

func TestProvisionRefuses(t *testing.T) {
	for _, r := range []struct {
		name   string
		files  map[string]string
		change func(d *initdata.InitData)
	}{
		{"a host key in the image", map[string]string{"etc/ssh/ssh_host_rsa_key": "x"}, nil},
		{"a key of two lines", nil, func(d *initdata.InitData) { d.SSHKeys = []string{"ssh-ed25519 AAAA\ncommand=\"x\" ssh-rsa B"} }},
		{"no key at all", nil, func(d *initdata.InitData) { d.SSHKeys = []string{"x"} }},
		{"keys for nobody", nil, func(d *initdata.InitData) { d.AdminUser = "" }},
		{"a group of that name", map[string]string{"etc/group": "alice:x:5:\n"}, nil},
	} {
		t.Run(r.name, func(t *testing.T) {
			d := data
			if r.change != nil {
				r.change(&d)
			}
			if _, err := run(t, testRoot(t, r.files), d); err == nil {
				t.Error("accepted")
			}
		})
	}
	t.Run("a link out of the root", func(t *testing.T) {
		dir, outside := testRoot(t, nil), t.TempDir()
		if err := os.Symlink(outside, filepath.Join(dir, "home")); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t, dir, data); err == nil {
			t.Error("accepted")
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("wrote %v outside", left)
		}
	})
}

func TestHostKeyIsReadByOpenSSH(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatal("ssh-keygen is missing: install the package openssh-client")
	}
	dir := testRoot(t, nil)
	if _, err := run(t, dir, data); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, HostKeyPath)
	out, err := exec.Command(keygen, "-y", "-P", "", "-f", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pub := read(t, dir, HostKeyPubPath)
	if f, g := strings.Fields(string(out)), strings.Fields(pub); f[0] != g[0] || f[1] != g[1] {
		t.Errorf("private key gives %s, public file says %s", out, pub)
	}
	wire, err := ParseHostKey([]byte(pub))
	if err != nil || !bytes.HasPrefix(wire, []byte("\x00\x00\x00\x0bssh-ed25519")) {
		t.Errorf("%x, %v", wire, err)
	}
	for _, bad := range []string{"", "ssh-rsa AAAA", "ssh-ed25519 !!!", "ssh-ed25519 AAAA"} {
		if _, err := ParseHostKey([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
