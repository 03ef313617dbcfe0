package main

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are the texts that people follow.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, "../../README.md") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(raw)
	}
	return texts
}

var (
	// A command in a block (fenced or indented) or in backquotes.
	written  = regexp.MustCompile("(?m)(?:^ +|^|`)(?:bin/)?cloister( [^`#\\n>|]*)")
	makeLine = regexp.MustCompile("(?m)(?:^ +|`)make ([a-z]+)")
	mdLink   = regexp.MustCompile(`\]\(([^)]+)\)`)
	word     = regexp.MustCompile(`^[a-z][a-z-]*$`)
)

// wrongCommand says what is wrong with the words after "cloister", or nothing.
func wrongCommand(line string) string {
	words := strings.Fields(line)
	root := newRoot()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err.Error()
	}
	if len(rest) > 0 && word.MatchString(rest[0]) && cmd.HasSubCommands() {
		return "no command " + rest[0]
	}
	cmd.InitDefaultHelpFlag()
	for _, w := range rest {
		if w == "--" {
			break
		}
		known := true
		if name, long := strings.CutPrefix(w, "--"); long {
			name, _, _ = strings.Cut(name, "=")
			known = cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
		} else if name, short := strings.CutPrefix(w, "-"); short {
			known = cmd.Flags().ShorthandLookup(name) != nil
		}
		if !known {
			return "no flag " + w
		}
	}
	return ""
}

// TestWrittenCommandsExist fails when a text tells of a command, flag or make target that is not there.
func TestWrittenCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for path, text := range documents(t) {
		for _, m := range written.FindAllStringSubmatch(text, -1) {
			seen++
			if wrong := wrongCommand(m[1]); wrong != "" {
				t.Errorf("%s: cloister%s: %s", path, m[1], wrong)
			}
		}
		for _, m := range makeLine.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: no target %q in the Makefile", path, m[1])
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d commands were found in the texts", seen)
	}
}

func TestWrongCommandsAreFound(t *testing.T) {
	for _, good := range []string{" vm attest web -o json", " up --hosts-file", " vm ssh web -- uname -a"} {
		if wrong := wrongCommand(good); wrong != "" {
			t.Errorf("cloister%s: %s", good, wrong)
		}
	}
	for _, bad := range []string{" vm atest web", " fly", " up --host-file", " vm attest web -z"} {
		if wrongCommand(bad) == "" {
			t.Errorf("cloister%s was taken for a command", bad)
		}
	}
}

// TestLinksLead fails when a text links to a file that is not there.
func TestLinksLead(t *testing.T) {
	for path, text := range documents(t) {
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			u, err := url.Parse(m[1])
			if err != nil || u.Scheme != "" || u.Path == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), u.Path)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
