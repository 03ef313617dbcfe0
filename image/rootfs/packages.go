package rootfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Recipe says what mmdebstrap installs.
type Recipe struct {
	Suite    string   // code name, such as "bookworm"
	Sources  string   // apt sources text, deb822 or one-line
	Packages []string // beside the suite's essential ones
	Kernel   string   // meta package of the kernel; it is only downloaded, never installed in the root
	Epoch    time.Time
}

// Packages of the default root. usr-is-merged stands in for usrmerge, which would bring 47 MiB of Perl.
var Packages = []string{
	"systemd-sysv", "udev", "dbus", "openssh-server", "ca-certificates", "iproute2", "kmod", "sudo", "usr-is-merged",
}

// excluded from what dpkg unpacks: nobody reads them in a small VM, and each MiB takes time on the first boot.
var excluded = []string{
	"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*", "/usr/share/bug/*",
	"/usr/share/bash-completion/*", "/usr/share/zsh/*", "/usr/lib/udev/hwdb.d/*", "/lib/udev/hwdb.d/*",
	"/usr/lib/x86_64-linux-gnu/gconv/*", "/usr/share/zoneinfo/right/*", "/usr/share/zoneinfo/posix/*",
}

// KernelDir is where the archive holds the kernel's .deb.
const KernelDir = ".kernel"

// kernelHook downloads the package that the kernel's meta package names, with the new root's own apt sources:
// so the kernel is the suite's, whatever the building machine runs.
const kernelHook = `set -e; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
p=$(apt-cache depends %s | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n1)
test -n "$p"; mkdir "$1/` + KernelDir + `"; cd "$1/` + KernelDir + `"; apt-get download -q "$p"`

// AsRoot tells whether mmdebstrap is run as root. Otherwise it makes a user namespace (package uidmap).
func AsRoot() bool { return os.Geteuid() == 0 }

// Debootstrap writes the root as a tar archive. It needs the package mirror; temporary files go below dir.
func Debootstrap(ctx context.Context, r Recipe, archive, dir string) error {
	if strings.TrimSpace(r.Sources) == "" {
		return fmt.Errorf("no apt sources for %s", r.Suite)
	}
	mode := "unshare"
	if AsRoot() {
		mode = "root"
	}
	args := []string{
		"--quiet", "--variant=minbase", "--mode=" + mode, "--format=tar",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(r.Packages, ","),
		"--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"",
		"--customize-hook=" + fmt.Sprintf(kernelHook, r.Kernel),
	}
	for _, x := range excluded {
		args = append(args, "--dpkgopt=path-exclude="+x)
	}
	args = append(args, r.Suite, archive, "-")
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Stdin = strings.NewReader(r.Sources)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.Epoch.Unix()), "TMPDIR="+dir, "LC_ALL=C", "TZ=UTC")
	// A signal, not a kill: mmdebstrap then unmounts and removes its folder.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("mmdebstrap --mode=%s (packages mmdebstrap, uidmap): %w: %s", mode, err, tail(out.String(), 2000))
	}
	return nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// HostSources gathers, from an apt configuration folder (/etc/apt), the sources that offer a suite: its own,
// its updates and its security fixes. So an image comes from the mirror that the machine's owner chose.
func HostSources(etcApt, suite string) (string, error) {
	files := []string{filepath.Join(etcApt, "sources.list")}
	for _, glob := range []string{"*.list", "*.sources"} {
		found, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", glob))
		if err != nil {
			return "", err
		}
		files = append(files, found...)
	}
	var lines []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading apt's sources: %w", err)
		}
		if strings.HasSuffix(f, ".sources") {
			lines = append(lines, fromStanzas(string(text), suite)...)
		} else {
			lines = append(lines, fromLines(string(text), suite)...)
		}
	}
	if len(lines) == 0 {
		return "", fmt.Errorf("%s names no source of the suite %s: give a mirror", etcApt, suite)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

func ofSuite(name, suite string) bool { return name == suite || strings.HasPrefix(name, suite+"-") }

func fromLines(text, suite string) (out []string) {
	for _, l := range strings.Split(text, "\n") {
		f := strings.Fields(l)
		if len(f) < 4 || f[0] != "deb" {
			continue
		}
		at := 2
		if strings.HasPrefix(f[1], "[") {
			for at = 1; at < len(f) && !strings.HasSuffix(f[at], "]"); at++ {
			}
			at += 2
		}
		if at < len(f) && ofSuite(f[at], suite) {
			out = append(out, strings.Join(f, " "))
		}
	}
	return out
}

// fromStanzas turns deb822 stanzas into one-line entries, one for each suite.
func fromStanzas(text, suite string) (out []string) {
	for _, stanza := range strings.Split(text, "\n\n") {
		fields := map[string]string{}
		last := ""
		for _, l := range strings.Split(stanza, "\n") {
			switch {
			case strings.HasPrefix(l, "#"):
			case strings.HasPrefix(l, " ") || strings.HasPrefix(l, "\t"):
				fields[last] += " " + strings.TrimSpace(l)
			default:
				if k, v, ok := strings.Cut(l, ":"); ok {
					last = strings.ToLower(strings.TrimSpace(k))
					fields[last] = strings.TrimSpace(v)
				}
			}
		}
		types := strings.Fields(fields["types"])
		if len(types) == 0 || types[0] != "deb" || strings.EqualFold(fields["enabled"], "no") {
			continue
		}
		options := ""
		if key := fields["signed-by"]; strings.HasPrefix(key, "/") {
			options = "[signed-by=" + strings.ReplaceAll(key, " ", ",") + "] "
		}
		for _, uri := range strings.Fields(fields["uris"]) {
			for _, s := range strings.Fields(fields["suites"]) {
				if ofSuite(s, suite) {
					out = append(out, fmt.Sprintf("deb %s%s %s %s", options, uri, s, fields["components"]))
				}
			}
		}
	}
	return out
}
