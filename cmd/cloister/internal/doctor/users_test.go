package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUsersOfImages(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	granted := file("granted", "root:1:5\nother:100000:65536\nmaria:165536:65536\n")
	good := func() users {
		return users{uid: 1000, name: "maria", files: []string{granted, granted}, mapper: "sh", try: func() error { return nil }}
	}
	for _, r := range []struct {
		name   string
		change func(*users)
		says   string // "" when nothing is missing
	}{
		{"a range by name", func(*users) {}, ""},
		{"a range by number", func(u *users) { u.files = []string{file("number", "1000:100000:65536\n")} }, ""},
		{"root needs no range", func(u *users) { u.uid, u.files, u.mapper = 0, nil, "no-such-tool" }, ""},
		{"no newuidmap", func(u *users) { u.mapper = "no-such-tool" }, "apt-get install uidmap"},
		{"namespaces are off", func(u *users) { u.try = func() error { return errors.New("unshare: Operation not permitted") } }, "Operation not permitted"},
		{"an empty list", func(u *users) { u.files = []string{file("empty", "")} }, "usermod --add-subuids"},
		{"no list", func(u *users) { u.files = []string{filepath.Join(dir, "none")} }, "range of 0 ids"},
		{"a range in the first list only", func(u *users) { u.files = []string{granted, file("others", "other:100000:65536\n")} }, "others gives maria a range of 0 ids"},
		{"a short range", func(u *users) { u.files = []string{file("short", "maria:100000:1000\n")} }, "range of 1000 ids"},
		{"a list with a mistake", func(u *users) { u.files = []string{file("wrong", "maria:100000\n")} }, "want NAME:FIRST:COUNT"},
	} {
		t.Run(r.name, func(t *testing.T) {
			u := good()
			r.change(&u)
			f := u.finding()
			if missing := f.State == Missing; missing != (r.says != "") || !strings.Contains(f.Detail+" "+f.Mend, r.says) {
				t.Errorf("%+v, want %q", f, r.says)
			}
		})
	}
}

func TestOnlyBuildingImagesNeedsUsers(t *testing.T) {
	for _, f := range Look(ToRun(t.TempDir())) {
		if f.Name == "user namespaces" {
			t.Errorf("running VMs asks for %+v", f)
		}
	}
}
