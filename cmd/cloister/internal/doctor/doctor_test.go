package doctor

import (
	"strings"
	"testing"
)

func TestLookNamesWhatIsMissing(t *testing.T) {
	good := Needs{State: t.TempDir(), DiskMiB: 1, Tools: []Tool{{"sh", "dash", "a shell"}}, Files: []File{{"/proc/self/stat", "none", "a file"}}}
	if err := Err(Look(good)); err != nil && strings.Contains(err.Error(), "sh:") {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		change func(*Needs)
		says   string
	}{
		"a missing tool": {func(n *Needs) { n.Tools = []Tool{{"no-such-tool", "some-package", "x"}} }, "apt-get install some-package"},
		"a missing file": {func(n *Needs) { n.Files = []File{{"/nonexistent", "other-package", "x"}} }, "apt-get install other-package"},
		"a full disk":    {func(n *Needs) { n.DiskMiB = 1 << 40 }, "free disk space"},
	} {
		t.Run(name, func(t *testing.T) {
			n := good
			r.change(&n)
			if err := Err(Look(n)); err == nil || !strings.Contains(err.Error(), r.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAFolderThatIsNotThereYetIsMeasuredAbove(t *testing.T) {
	if f := disk(t.TempDir()+"/a/b", 1); f.State != OK {
		t.Errorf("%+v", f)
	}
}
