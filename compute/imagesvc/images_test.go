package imagesvc

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestTEEs(t *testing.T) {
	for _, r := range []struct {
		guests, launchers, want []string
	}{
		{nil, []string{"snp"}, nil},
		{[]string{"software"}, []string{"software"}, nil},
		{[]string{"software", "sevsnp"}, []string{"snp"}, []string{"snp"}},
		{[]string{"sevsnp", "tdx"}, []string{"software"}, []string{"snp", "tdx"}},
		{[]string{"software"}, []string{"snp"}, []string{"hosts with the software launcher only"}},
	} {
		if got := (Image{Guests: r.guests}).TEEs(r.launchers); !slices.Equal(got, r.want) {
			t.Errorf("%v on %v: got %v, want %v", r.guests, r.launchers, got, r.want)
		}
	}
}

func TestGet(t *testing.T) {
	dir := t.TempDir()
	s := &Service{Dir: dir, MinDiskGiB: 1}
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "manifest.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good", `{"digest":"sha256:00","disk":{"size":1073741825},"guests":[{"tee":"software","supported":true},{"tee":"tdx","supported":false}]}`)
	write("nodigest", `{}`)
	write("broken", `{`)
	img, ok, err := s.Get("good")
	if err != nil || !ok || img.MinDiskGiB != 2 || !slices.Equal(img.Guests, []string{"software"}) {
		t.Fatalf("%+v, %v, %v", img, ok, err)
	}
	if _, ok, err := s.Get("absent"); ok || err != nil {
		t.Errorf("absent: %v, %v", ok, err)
	}
	for _, bad := range []string{"nodigest", "broken", "..", "a/b", ""} {
		if _, _, err := s.Get(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
}
