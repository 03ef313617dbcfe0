package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cloister": main})
}

// TestScripts uses the command line as its users do, without a platform: what it says, and its exit status.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			own, _, _ := strings.Cut(e.Getenv("PATH"), string(os.PathListSeparator)) // where "cloister" is
			e.Setenv("OWN", own)
			e.Setenv("CLOISTER_STATE", e.Getenv("WORK")+"/state")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": wantStatus},
	})
}

// wantStatus is the script command "status N COMMAND…": it runs the command line in a process and compares its exit status.
func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit status %d, want %d", args[1:], got, want)
	}
}

// TestEveryCommandHasAnExample walks all commands, so that none is added without one.
func TestEveryCommandHasAnExample(t *testing.T) {
	seen := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		seen++
		if c.Example == "" || c.Short == "" {
			t.Errorf("%q: example %q, short %q", c.CommandPath(), c.Example, c.Short)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	if seen < 20 {
		t.Errorf("%d commands seen", seen)
	}
}

// TestCommandNames holds the names that scripts and the documentation rely on.
func TestCommandNames(t *testing.T) {
	for _, path := range [][]string{
		{"up"}, {"down"}, {"status"}, {"quickstart"}, {"doctor"}, {"config", "check"}, {"image", "build"}, {"image", "list"}, {"launch", "expect"}, {"attest", "verify"},
		{"vm", "create"}, {"vm", "list"}, {"vm", "show"}, {"vm", "start"}, {"vm", "stop"}, {"vm", "restart"}, {"vm", "deallocate"}, {"vm", "delete"}, {"vm", "console"},
		{"vm", "logs"}, {"vm", "ssh"}, {"vm", "attest"}, {"vm", "measure"}, {"vm", "metadata"}, {"key", "create"}, {"key", "disable"}, {"encryption-set", "create"}, {"disk", "create"}, {"disk", "list"}, {"disk", "show"}, {"disk", "resize"}, {"disk", "delete"}, {"vm", "disk", "attach"}, {"vm", "disk", "detach"}, {"snapshot", "create"}, {"snapshot", "list"}, {"snapshot", "delete"}, {"deployment", "create"}, {"deployment", "validate"}, {"deployment", "show"}, {"deployment", "list"}, {"deployment", "delete"},
	} {
		c, rest, err := newRoot().Find(path)
		if err != nil || len(rest) > 0 || c.Name() != path[len(path)-1] {
			t.Errorf("%v: found %v, rest %v, error %v", path, c.Name(), rest, err)
		}
	}
}

// TestEveryCommandRefusesAnUnknownFlag with the status of wrong usage, and before it does anything.
func TestEveryCommandRefusesAnUnknownFlag(t *testing.T) {
	t.Setenv("CLOISTER_STATE", t.TempDir()+"/state")
	var walk func(*cobra.Command, []string)
	walk = func(c *cobra.Command, path []string) {
		if got := run(context.Background(), append(slices.Clone(path), "--no-such-flag")); got != exitUsage {
			t.Errorf("%v --no-such-flag: exit status %d, want %d", path, got, exitUsage)
		}
		for _, sub := range c.Commands() {
			walk(sub, append(slices.Clone(path), sub.Name()))
		}
	}
	walk(newRoot(), nil)
	if _, err := os.Stat(os.Getenv("CLOISTER_STATE")); !os.IsNotExist(err) {
		t.Errorf("a refused command made a state folder (%v)", err)
	}
}
