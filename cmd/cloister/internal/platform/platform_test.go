package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnvRoundTrip(t *testing.T) {
	want := Client{ARMEndpoint: "https://localhost:1", AuthorityHost: "https://localhost:1", TenantID: "t", ClientID: "c", ClientSecret: "s=1", SubscriptionID: "u",
		MAAEndpoint: "https://localhost:2", VaultEndpoint: "https://v.vault.localhost:3", CAFile: "/ca", Location: "local", LimitedClientID: "l", LimitedClientSecret: "m"}
	path := filepath.Join(t.TempDir(), "client.env")
	if err := os.WriteFile(path, want.Env(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEnv(path)
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(want.Env())), "\n") {
		name, _, _ := strings.Cut(line, "=")
		t.Run("without "+name, func(t *testing.T) {
			without := strings.Replace(string(want.Env()), line+"\n", "", 1)
			if err := os.WriteFile(path, []byte(without), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadEnv(path); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "cloister up") {
		t.Errorf("error %v", err)
	}
}
