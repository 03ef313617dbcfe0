package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func smallTree() Tree {
	t := Tree{}
	t.File("etc/motd", 0o644, "hello\n")
	t.File("usr/bin/su", 0o4755, strings.Repeat("x", 9000))
	t.File("usr/lib/a\\x2db.service", 0o644, "escaped\n")
	t.File("usr/lib/with space", 0o600, "")
	t.Symlink("bin", "usr/bin")
	t["usr/bin/su2"] = Node{Kind: tar.TypeLink, Link: "usr/bin/su"}
	t["home"] = Node{Kind: tar.TypeDir, Mode: 0o755}
	t["home/u"] = Node{Kind: tar.TypeDir, Mode: 0o2770, UID: 1000, GID: 70000}
	t["dev"] = Node{Kind: tar.TypeDir, Mode: 0o755}
	t["dev/null"] = Node{Kind: tar.TypeChar, Mode: 0o666, Major: 1, Minor: 3}
	return t
}

var fixed = FileSystem{UUID: "c1015e12-0000-4000-8000-000000000001", HashSeed: "c1015e12-0000-4000-8000-000000000002", Label: "test", Time: time.Unix(1767225600, 0), SlackMiB: 8}

func debugfs(t *testing.T, img, command string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", command, img).CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs (package e2fsprogs): %v\n%s", err, out)
	}
	return string(out)
}

func TestWriteExt4(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a.img"), filepath.Join(t.TempDir(), "b.img")
	for _, img := range []string{a, b} {
		if err := WriteExt4(context.Background(), img, smallTree(), fixed); err != nil {
			t.Fatal(err)
		}
	}
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		for i := range x {
			if x[i] != y[i] {
				t.Fatalf("two file systems of one tree differ from byte %#x", i)
			}
		}
	}
	for _, c := range []struct{ path, want string }{
		{"/usr/bin/su", "Mode:  04755"}, {"/usr/bin/su", "Links: 2"}, {"/usr/bin/su2", "Links: 2"}, {"/home/u", "Mode:  02770"},
		{"/home/u", "User:  1000"}, {"/home/u", "Group: 70000"}, {"/dev/null", "character special"}, {"/bin", `Fast link dest: "usr/bin"`},
		{`/usr/lib/a\x2db.service`, "Size: 8"}, {`"/usr/lib/with space"`, "Mode:  0600"}, {"/etc/motd", "mtime: 0x6955b900"},
	} {
		if out := debugfs(t, a, "stat "+c.path); !strings.Contains(out, c.want) {
			t.Errorf("%s: no %q in\n%s", c.path, c.want, out)
		}
	}
	// A clock that slips in would show here.
	for _, p := range []string{"/", "/etc", "/etc/motd", "/lost+found", "<8>"} {
		out := debugfs(t, a, "stat "+p)
		for _, stamp := range []string{"ctime", "atime", "mtime", "crtime"} {
			if !strings.Contains(out, stamp+": 0x6955b900") {
				t.Errorf("%s: another %s than the fixed one in\n%s", p, stamp, out)
			}
		}
	}
	if out := debugfs(t, a, "cat /etc/motd"); !strings.HasSuffix(out, "hello\n") {
		t.Errorf("content: %q", out)
	}
}

func TestWriteExt4Refuses(t *testing.T) {
	for name, spoil := range map[string]func(Tree){
		"quote in a path":      func(t Tree) { t.File("a\"b", 0o644, "") },
		"line break in a path": func(t Tree) { t.File("a\nrm b", 0o644, "") },
		"no parent":            func(t Tree) { t["x/y"] = Node{Kind: tar.TypeReg} },
		"dangling hard link":   func(t Tree) { t["x"] = Node{Kind: tar.TypeLink, Link: "nothing"} },
		"extended attribute":   func(t Tree) { n := t["etc/motd"]; n.Attribute = "security.capability"; t["etc/motd"] = n },
		"path below a file":    func(t Tree) { t["etc/motd/x"] = Node{Kind: tar.TypeReg} },
	} {
		tree := smallTree()
		if _, err := debugfsScript(tree, t.TempDir(), fixed.Time); err != nil {
			t.Fatalf("positive twin: %v", err)
		}
		spoil(tree)
		if _, err := debugfsScript(tree, t.TempDir(), fixed.Time); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestReadTar(t *testing.T) {
	tree, err := ReadTar(archive(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "./a/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 5},
		tar.Header{Name: "../../b", Typeflag: tar.TypeReg}, tar.Header{Name: "c", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "1"}, Format: tar.FormatPAX}))
	if err != nil {
		t.Fatal(err)
	}
	if n := tree["a"]; n.Mode != 0o1777 || n.UID != 5 {
		t.Errorf("a is %+v", n)
	}
	if _, ok := tree["b"]; !ok || tree["c"].Attribute != "user.x" {
		t.Errorf("tree %v", tree)
	}
	if _, err := ReadTar(strings.NewReader(strings.Repeat("x", 2048))); err == nil {
		t.Error("garbage was accepted")
	}
}

func installedTree() Tree {
	t := Tree{}
	for _, p := range []string{"usr/lib/systemd/systemd", "usr/sbin/sshd", "etc/passwd", "usr/lib/systemd/system/systemd-networkd.service"} {
		t.File(p, 0o644, "x")
	}
	return t
}

func TestSettleTakesOutWhatVaries(t *testing.T) {
	tree := installedTree()
	gone := []string{"etc/ssh/ssh_host_rsa_key", "var/lib/dbus/machine-id", "var/log/dpkg.log", "var/lib/apt/lists/x", "tmp/y", "etc/shadow-", "var/lib/systemd/random-seed"}
	for _, p := range gone {
		tree.File(p, 0o600, "secret")
	}
	tree.File("etc/machine-id", 0o644, "0123456789abcdef0123456789abcdef\n")
	tree.File("etc/resolv.conf", 0o644, "nameserver 192.0.2.1\n")
	if err := Settle(tree); err != nil {
		t.Fatal(err)
	}
	for _, p := range gone {
		if _, ok := tree[p]; ok {
			t.Errorf("%s is still there", p)
		}
	}
	for _, p := range []string{"etc/machine-id", "etc/resolv.conf", "etc/fstab"} {
		if n, ok := tree[p]; !ok || len(n.Data) != 0 {
			t.Errorf("%s holds %q, want an empty file", p, n.Data)
		}
	}
	if _, ok := tree["var/log"]; !ok {
		t.Error("var/log itself is gone")
	}
	if n := tree["etc/systemd/system-generators/systemd-gpt-auto-generator"]; n.Link != "/dev/null" {
		t.Error("HD-10: systemd would swap on the host's partitions")
	}
	incomplete := installedTree()
	incomplete.Remove("usr/sbin/sshd")
	if err := Settle(incomplete); err == nil {
		t.Error("a root without sshd was accepted")
	}
}

func TestHostSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sources.list", "# deb http://m/no bookworm main\ndeb http://m/debian bookworm main contrib\ndeb-src http://m/debian bookworm main\ndeb [arch=amd64 signed-by=/k] http://m/x trixie main\n")
	write("sources.list.d/more.list", "deb [ arch=amd64 ] http://m/security bookworm-security main\n")
	write("sources.list.d/d.sources", "Types: deb\nURIs: http://m/debian\nSuites: bookworm-updates trixie\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://m/off\nSuites: bookworm\n\nTypes: deb\nURIs: http://m/other\nSuites: nodistro\nComponents: main\n")
	got, err := HostSources(dir, "bookworm")
	want := "deb http://m/debian bookworm main contrib\ndeb [ arch=amd64 ] http://m/security bookworm-security main\ndeb [signed-by=/k.gpg] http://m/debian bookworm-updates main\n"
	if err != nil || got != want {
		t.Errorf("got %q (%v)\nwant %q", got, err, want)
	}
	if _, err := HostSources(dir, "sid"); err == nil {
		t.Error("a suite that no source offers was accepted")
	}
}
