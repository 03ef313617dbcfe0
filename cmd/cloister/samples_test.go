package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/attest"
	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/host"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/softchip"
)

const samplesDir = "../../docs/samples"

var samples = map[string]reflect.Type{
	"compute":  reflect.TypeFor[install.ComputeConfig](),
	"host":     reflect.TypeFor[host.Config](),
	"attest":   reflect.TypeFor[attest.Config](),
	"keys":     reflect.TypeFor[keys.Config](),
	"softchip": reflect.TypeFor[softchip.Config](),
}

func readSample(t *testing.T, service string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(samplesDir, service+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestSamplesAreGood checks each sample as "config check" does. Only a file that this machine lacks may be missed.
func TestSamplesAreGood(t *testing.T) {
	for service := range samples {
		kind, err := checkConfig(filepath.Join(samplesDir, service+".yaml"))
		if kind != service {
			t.Errorf("%s.yaml is taken for a file of %q (%v)", service, kind, err)
		}
		for _, mistake := range leaves(err) {
			if !errors.Is(mistake, fs.ErrNotExist) {
				t.Errorf("%s.yaml: %v", service, mistake)
			}
		}
	}
}

// leaves takes a joined error apart.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, leaves(e)...)
	}
	return all
}

// commentedOption is an option that a sample shows but does not set, because another one excludes it.
var commentedOption = regexp.MustCompile(`(?m)^[\s#]*# *([a-z][A-Za-z0-9]*):(?: \S|$)`)

// missing lists the options of a type that a parsed sample does not set and no comment shows.
func missing(typ reflect.Type, value any, path string, commented map[string]bool) []string {
	switch typ.Kind() {
	case reflect.Pointer:
		return missing(typ.Elem(), value, path, commented)
	case reflect.Slice:
		list, ok := value.([]any)
		if typ.Elem().Kind() != reflect.Struct || !ok || len(list) == 0 {
			return nil
		}
		return missing(typ.Elem(), list[0], path+"[]", commented)
	case reflect.Struct:
	default:
		return nil
	}
	members, ok := value.(map[string]any)
	if !ok {
		return []string{path + ": no members"}
	}
	var gone []string
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		v, set := members[name]
		switch {
		case set:
			gone = append(gone, missing(f.Type, v, path+"."+name, commented)...)
		case !commented[name]:
			gone = append(gone, path+"."+name)
		default:
			// A commented-out section must show its members as well.
			inner := f.Type
			for inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				gone = append(gone, missing(inner, map[string]any{}, path+"."+name, commented)...)
			}
		}
	}
	return gone
}

// TestSamplesShowEveryOption fails when an option is added without its line in the sample.
func TestSamplesShowEveryOption(t *testing.T) {
	for service, typ := range samples {
		text := readSample(t, service)
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		commented := map[string]bool{}
		for _, m := range commentedOption.FindAllStringSubmatch(text, -1) {
			commented[m[1]] = true
		}
		for _, option := range missing(typ, value, service, commented) {
			t.Errorf("%s.yaml lacks %s", service, option)
		}
	}
}

func TestMissingOptionsAreFound(t *testing.T) {
	typ := samples["softchip"]
	if got := missing(typ, map[string]any{"dir": "/d", "socket": "/s"}, "softchip", nil); len(got) != 0 {
		t.Errorf("a full sample lacks %v", got)
	}
	if got := missing(typ, map[string]any{"dir": "/d"}, "softchip", nil); len(got) != 1 || got[0] != "softchip.socket" {
		t.Errorf("the missing option was not found: %v", got)
	}
}
