package api

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenHash compares with what Microsoft's service answered to the same request.
func TestTokenHash(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	request, err := os.ReadFile(filepath.Join(dir, "maa-policy-roundtrip", "put-policy-request.jws"))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	answer, err := os.ReadFile(filepath.Join(dir, "maa-policy-roundtrip", "put-policy-response.json"))
	if err != nil {
		t.Fatal(err)
	}
	var body struct{ Token string }
	var claims struct {
		Hash string `json:"x-ms-policy-token-hash"`
	}
	err = json.Unmarshal(answer, &body)
	if parts := strings.Split(body.Token, "."); err == nil && len(parts) == 3 {
		var payload []byte
		if payload, err = base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			err = json.Unmarshal(payload, &claims)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	jws := strings.TrimSuffix(string(request), "\n")
	if got := tokenHash(jws); got != claims.Hash || claims.Hash == "" {
		t.Errorf("%s, want %s", got, claims.Hash)
	}
	if tokenHash(strings.TrimSuffix(jws, ".")) == claims.Hash {
		t.Error("the last dot doesn't count")
	}
}
