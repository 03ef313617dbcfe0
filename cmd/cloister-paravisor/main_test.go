package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/paravisor/client"
)

func configFile(t *testing.T, dir string, edit func(map[string]any)) string {
	t.Helper()
	m := map[string]any{"vmId": "11111111-2222-3333-4444-555555555555", "mode": "NonPersistedTPM", "runDir": dir, "initDataFile": dir + "/init",
		"firmwareVars": dir + "/vars", "scratchDir": dir, "softchipSocket": dir + "/chip", "softchipHandle": "h", "secureBoot": true}
	edit(m)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func execute(args ...string) error {
	c := command(slog.New(slog.NewJSONHandler(io.Discard, nil)))
	c.SetArgs(args)
	c.SetOut(io.Discard)
	return c.Execute()
}

func TestConfigCheck(t *testing.T) {
	for _, r := range []struct {
		name string
		edit func(map[string]any)
		want string
	}{
		{"as it should be", func(map[string]any) {}, ""},
		{"unknown member", func(m map[string]any) { m["operatorKey"] = "x" }, "operatorKey"},
		{"wrong type", func(m map[string]any) { m["secureBoot"] = "yes" }, "secureBoot"},
		{"two mistakes, the second is told too", func(m map[string]any) { m["vmId"], m["mode"] = "", "" }, "mode"},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := execute("config", "check", configFile(t, t.TempDir(), r.edit))
			if (err == nil) != (r.want == "") || (err != nil && !strings.Contains(err.Error(), r.want)) {
				t.Errorf("got %v, want %q", err, r.want)
			}
		})
	}
	if err := execute("run"); err == nil {
		t.Error("run without a configuration")
	}
}

// TestRunTellsWhyAndEndsOnSIGTERM: without a CPU there is no evidence; the reason stays readable until the end.
func TestRunTellsWhyAndEndsOnSIGTERM(t *testing.T) {
	dir, err := os.MkdirTemp("", "pv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	raw, err := initdata.Marshal(initdata.InitData{VMID: "11111111-2222-3333-4444-555555555555", Name: "web", OSDiskEncryption: "NonPersistedTPM",
		Attest: initdata.Service{URL: "https://attest.example", SigningKeys: []initdata.SigningKey{{KID: "k", PEM: "p"}}, TLSCA: "no certificate"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), bytes.TrimSpace(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	file := configFile(t, dir, func(map[string]any) {})
	go func() { done <- execute("run", "--config", file) }()
	control := client.Dial(filepath.Join(dir, client.ControlSocket))
	deadline := time.Now().Add(20 * time.Second)
	for {
		st, err := control.Status(t.Context())
		if err == nil && st.Phase == client.PhaseFailed {
			if st.Failure == nil || st.Failure.Code != evidence.CodeParse || !strings.Contains(st.Failure.Field, "tlsCA") {
				t.Errorf("failure %v", st.Failure)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no failure: %v, %v", st, err)
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("a failed session ended without an error")
	}
}
