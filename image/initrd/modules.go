package initrd

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// Dependencies is modules.dep: for each module's path (relative to /lib/modules/VERSION) what it needs,
// nearest first.
type Dependencies struct {
	needs  map[string][]string
	byName map[string]string
}

// moduleName is how the kernel calls a module: no folder, no suffix, '_' for '-'.
func moduleName(p string) string {
	base := path.Base(p)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// ParseDependencies reads the text of modules.dep.
func ParseDependencies(r io.Reader) (*Dependencies, error) {
	d := &Dependencies{map[string][]string{}, map[string]string{}}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		mod, needs, ok := strings.Cut(sc.Text(), ":")
		if !ok || mod == "" {
			return nil, fmt.Errorf("modules.dep: line %q has no module", sc.Text())
		}
		d.needs[mod] = strings.Fields(needs)
		d.byName[moduleName(mod)] = mod
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading modules.dep: %w", err)
	}
	return d, nil
}

// Builtin is the set of names in modules.builtin.
func Builtin(text string) map[string]bool {
	out := map[string]bool{}
	for _, l := range strings.Fields(text) {
		out[moduleName(l)] = true
	}
	return out
}

// Has tells whether a module is listed.
func (d *Dependencies) Has(name string) bool { return d.byName[moduleName(name)] != "" }

// Order gives the paths of the named modules and all they need, each after its needs. A name that is
// neither a module nor built in is an error.
func (d *Dependencies) Order(names []string, builtin map[string]bool) ([]string, error) {
	var out []string
	done := map[string]bool{}
	for _, name := range names {
		p, ok := d.byName[moduleName(name)]
		if !ok {
			if builtin[moduleName(name)] {
				continue
			}
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		needs := d.needs[p]
		// modules.dep lists the whole closure with the deepest last.
		for i := len(needs) - 1; i >= -1; i-- {
			m := p
			if i >= 0 {
				m = needs[i]
			}
			if _, ok := d.needs[m]; !ok {
				return nil, fmt.Errorf("module %s needs %s, which modules.dep does not list", p, m)
			}
			if !done[m] {
				done[m] = true
				out = append(out, m)
			}
		}
	}
	return out, nil
}
