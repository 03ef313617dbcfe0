package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"cloister.dev/cloister/internal/sbin"
)

// wantUsers is how many user ids a root file system needs: mmdebstrap maps 0 to 65535.
const wantUsers = 65536

// users is what building a root file system without being root rests on: a user namespace with a range of user ids.
type users struct {
	uid    int
	name   string
	files  []string     // /etc/subuid and /etc/subgid, see subuid(5)
	mapper string       // newuidmap(1): sets up the range, and is setuid
	try    func() error // makes a namespace
}

func machineUsers() users {
	u := users{uid: os.Geteuid(), files: []string{"/etc/subuid", "/etc/subgid"}, mapper: "newuidmap", try: func() error {
		out, err := exec.Command("unshare", "--user", "--map-root-user", "--mount", "true").CombinedOutput()
		if err != nil && len(out) > 0 {
			return errors.New(string(bytes.TrimSpace(out)))
		}
		return err
	}}
	if me, err := user.Current(); err == nil {
		u.name = me.Username
	}
	return u
}

func (u users) finding() Finding {
	f := Finding{Name: "user namespaces", State: OK, Detail: "images can be built without root"}
	if u.uid == 0 {
		f.Detail = "not needed by root"
		return f
	}
	f.State = Missing
	if _, err := sbin.Look(u.mapper); err != nil {
		f.Detail, f.Mend = u.mapper+" is missing, so images can only be built by root", "apt-get install uidmap"
		return f
	}
	if err := u.try(); err != nil {
		f.Detail, f.Mend = fmt.Sprintf("not for this user (%v), so images can only be built by root", err),
			"sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, as far as these exist"
		return f
	}
	for _, file := range u.files {
		n, err := u.granted(file)
		if err != nil {
			f.Detail, f.Mend = err.Error(), "make "+file+" right, see subuid(5)"
			return f
		}
		if n < wantUsers {
			f.Detail = fmt.Sprintf("%s gives %s a range of %d ids, want %d; so images can only be built by root", file, u.name, n, wantUsers)
			f.Mend = fmt.Sprintf("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s (a range that %s gives nobody else)", u.name, file)
			return f
		}
	}
	f.State = OK
	return f
}

// granted is the size of the largest range that a file gives the user, by name or by number.
func (u users) granted(file string) (int, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	most := 0
	for n, line := range strings.Split(string(raw), "\n") {
		owner, rest, ok := strings.Cut(line, ":")
		if !ok || owner != u.name && owner != strconv.Itoa(u.uid) {
			continue
		}
		_, count, _ := strings.Cut(rest, ":")
		size, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			return 0, fmt.Errorf("%s:%d: %q, want NAME:FIRST:COUNT", file, n+1, line)
		}
		most = max(most, size)
	}
	return most, nil
}
