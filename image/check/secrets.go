package check

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strings"

	"cloister.dev/cloister/evidence"
)

// What a rule finds it names by its path, never by its content.

const maxNamed = 8 // paths in a reason

func paths(found []string) string {
	sort.Strings(found)
	out := "/" + strings.Join(found[:min(len(found), maxNamed)], ", /")
	if len(found) > maxNamed {
		out += ", …"
	}
	return printable(out)
}

func judgeHostKeys(_ context.Context, i *Image) (judgement, error) {
	entries, err := list(i.Root, "etc/ssh")
	if err != nil {
		return judgement{}, err
	}
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ssh_host_") {
			found = append(found, "etc/ssh/"+e.Name())
		}
	}
	if len(found) > 0 {
		return fail("remove them: each VM makes its own, and proves it", "everybody who has the image has %s", paths(found)), nil
	}
	return pass("none in /etc/ssh"), nil
}

func judgeMachineID(_ context.Context, i *Image) (judgement, error) {
	for _, name := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		info, err := fs.Lstat(i.Root, name)
		if missing(err) != nil {
			return judgement{}, err
		}
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		s, err := text(i.Root, name)
		if err != nil {
			return judgement{}, err
		}
		if s = strings.TrimSpace(s); s != "" && s != "uninitialized" {
			return fail("truncate -s 0 /etc/machine-id", "all VMs would share that of /%s", name), nil
		}
	}
	return pass("each VM makes its own"), nil
}

// judgePasswords: "!" and "*" at the beginning are no hash of any password; an empty field lets everybody in.
func judgePasswords(_ context.Context, i *Image) (judgement, error) {
	var found []string
	for _, file := range []string{"etc/shadow", "etc/passwd"} {
		s, err := text(i.Root, file)
		if err != nil {
			return judgement{}, err
		}
		for _, l := range strings.Split(s, "\n") {
			f := strings.Split(l, ":")
			if len(f) < 2 || f[0] == "" || f[0][0] == '#' {
				continue
			}
			if p := f[1]; !(strings.HasPrefix(p, "!") || strings.HasPrefix(p, "*") || file == "etc/passwd" && p == "x") {
				found = append(found, f[0])
			}
		}
	}
	if len(found) > 0 {
		return fail("passwd --lock", "these accounts have a password, or need none: %s", printable(strings.Join(found, ", "))), nil
	}
	return pass("all accounts of /etc/shadow are locked"), nil
}

// homes are the accounts' folders, without a slash at the beginning.
func homes(root fs.FS) ([]string, error) {
	out := []string{"root"}
	s, err := text(root, "etc/passwd")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{"root": true}
	add := func(h string) {
		if h = strings.Trim(path.Clean("/"+h), "/"); h != "" && !seen[h] && fs.ValidPath(h) {
			seen[h] = true
			out = append(out, h)
		}
	}
	for _, l := range strings.Split(s, "\n") {
		if f := strings.Split(l, ":"); len(f) == 7 {
			add(f[5])
		}
	}
	entries, err := list(root, "home")
	for _, e := range entries {
		add("home/" + e.Name())
	}
	return out, err
}

func judgeAuthorizedKeys(_ context.Context, i *Image) (judgement, error) {
	where, err := homes(i.Root)
	if err != nil {
		return judgement{}, err
	}
	var found []string
	look := func(name string) error {
		s, err := text(i.Root, name)
		if err == nil && len(lines(s)) > 0 {
			found = append(found, name)
		}
		return err
	}
	for _, h := range where {
		for _, name := range []string{"authorized_keys", "authorized_keys2"} {
			if err := look(path.Join(h, ".ssh", name)); err != nil {
				return judgement{}, err
			}
		}
	}
	entries, err := list(i.Root, "etc/ssh/authorized_keys.d")
	if err != nil {
		return judgement{}, err
	}
	for _, e := range entries {
		if err := look("etc/ssh/authorized_keys.d/" + e.Name()); err != nil {
			return judgement{}, err
		}
	}
	if len(found) > 0 {
		return fail("remove them: keys come with each VM's init data", "whoever has the keys can enter each VM: %s", paths(found)), nil
	}
	return pass("no authorized_keys in any home"), nil
}

// traces are files and folders that only a system has that ran or was used, with a beginning or an end of their paths.
var traces = []struct{ under, name string }{
	{"root", ".bash_history"}, {"home", ".bash_history"}, {"root", ".zsh_history"}, {"home", ".zsh_history"},
	{"", ".netrc"}, {"", ".git-credentials"}, {"", ".pgpass"}, {"", ".my.cnf"}, {"", ".npmrc"}, {"", ".pypirc"},
	{"", ".aws/credentials"}, {"", ".azure/accessTokens.json"}, {"", ".azure/msal_token_cache.json"}, {"", ".azure/msal_token_cache.bin"}, {"", ".azure/service_principal_entries.json"},
	{"", ".config/gcloud/credentials.db"}, {"", ".config/gcloud/access_tokens.db"}, {"", ".config/gcloud/application_default_credentials.json"},
	{"", ".docker/config.json"}, {"", ".kube/config"}, {"", ".config/gh/hosts.yml"}, {"", ".vault-token"},
	{"var/lib/cloud/instances", "user-data.txt"}, {"var/lib/cloud/instances", "vendor-data.txt"}, {"var/lib/cloud/instances", "obj.pkl"}, {"var/lib/waagent", "ovf-env.xml"},
	{"var/lib/systemd", "credential.secret"}, {"etc/NetworkManager/system-connections", ""},
}

// searched are the folders whose small files are read. Programs and libraries come from packages, not from an owner.
var searched = []string{"etc", "root", "home", "opt", "srv", "usr/local", "var/lib", "var/spool", "var/www", "var/backups", "boot"}

// passed over: packages' own data, which hold no secrets and are many.
var passedOver = map[string]bool{"var/lib/dpkg": true, "var/lib/apt": true, "etc/ssl/certs": true, "etc/alternatives": true, "var/lib/ucf": true}

// Bounds on the search, in bytes: of a file, and in all. Many names may lead to one file.
const (
	maxSearched    = 128 << 10
	maxSearchedAll = 4 << 30
)

var (
	privateKey = regexp.MustCompile(`(?m)^-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\r?$`)
	// Forms of tokens that are not met by chance: of AWS, GitHub, Slack, and Azure's storage.
	token = regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bxox[baprs]-[0-9A-Za-z-]{20,}|AccountKey=[A-Za-z0-9+/]{40,}={0,2}|SharedAccessSignature=sv=`)
)

// marks are parts that each form has: looking for them first is many times faster than the forms themselves.
var (
	keyMarks   = []string{"PRIVATE KEY"}
	tokenMarks = []string{"AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "xox", "AccountKey=", "SharedAccessSignature="}
)

func matches(form *regexp.Regexp, marks []string, b []byte) bool {
	for _, m := range marks {
		if bytes.Contains(b, []byte(m)) {
			return form.Match(b)
		}
	}
	return false
}

func judgeSecrets(ctx context.Context, i *Image) (judgement, error) {
	var keys, tokens, used []string
	w, left := walker{left: maxWalk}, int64(maxSearchedAll)
	for _, dir := range searched {
		err := w.walk(i.Root, dir, func(p string, d fs.DirEntry) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if d.IsDir() && passedOver[p] {
				return fs.SkipDir
			}
			info, err := d.Info()
			if err != nil || !d.Type().IsRegular() || info.Size() == 0 {
				return err
			}
			if isTrace(p) {
				used = append(used, p)
				return nil
			}
			if info.Size() > maxSearched {
				return nil
			}
			if left -= info.Size(); left < 0 {
				return evidence.Refuse(evidence.CodeUnsupported, dir, "more to search", fmt.Sprintf("at most %d bytes", int64(maxSearchedAll)))
			}
			b, err := read(i.Root, p, maxSearched)
			switch {
			case err != nil:
				return err
			case bytes.HasPrefix(b, []byte("\x7fELF")) || strings.HasPrefix(p, "etc/ssh/ssh_host_"): // another rule's
			case matches(privateKey, keyMarks, b), strings.HasPrefix(p, "var/lib/waagent/") && path.Ext(p) == ".prv":
				keys = append(keys, p)
			case matches(token, tokenMarks, b):
				tokens = append(tokens, p)
			}
			return nil
		})
		if err != nil {
			return judgement{}, err
		}
	}
	var reasons []string
	for what, found := range map[string][]string{"private keys": keys, "tokens": tokens, "traces of use": used} {
		if len(found) > 0 {
			reasons = append(reasons, what+" in "+paths(found))
		}
	}
	if len(reasons) > 0 {
		sort.Strings(reasons)
		return fail("remove them, and hold what they opened for known (cloud-init clean, waagent -deprovision)", "%s", strings.Join(reasons, "; ")), nil
	}
	return pass("none in /%s", strings.Join(searched, ", /")), nil
}

func isTrace(p string) bool {
	for _, t := range traces {
		if t.under != "" && !strings.HasPrefix(p, t.under+"/") {
			continue
		}
		if t.name == "" || path.Base(p) == t.name || strings.HasSuffix(p, "/"+t.name) {
			return true
		}
	}
	return false
}
