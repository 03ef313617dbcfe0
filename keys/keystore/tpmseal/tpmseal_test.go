package tpmseal_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/tpm/tpmtest"
	"cloister.dev/cloister/keys/keystore/tpmseal"
)

var secret = []byte("a passphrase of tests")

func booted(t *testing.T, secureBoot string) *tpmtest.TPM {
	t.Helper()
	m := tpmtest.Start(t)
	m.Boot(map[int]string{4: "loader", 7: secureBoot})
	return m
}

func TestSealed(t *testing.T) {
	m := booted(t, "secure boot")
	file, err := tpmseal.Seal(m, []int{7, 4}, secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, secret) {
		t.Error("the file shows the secret")
	}
	if got, err := tpmseal.Unseal(m, file); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%q %v", got, err)
	}
	m.Reboot()
	m.Boot(map[int]string{4: "loader", 7: "secure boot"})
	if got, err := tpmseal.Unseal(m, file); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("after a reboot: %q %v", got, err)
	}
	change := func(member string, by func(v any) any) []byte {
		head, raw, _ := bytes.Cut(file, []byte("\n"))
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		m[member] = by(m[member])
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append(append(bytes.Clone(head), '\n'), out...)
	}
	other := booted(t, "secure boot")
	foreign, err := tpmseal.Seal(other, []int{4, 7}, secret)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(v any) any {
		s := v.(string)
		i := len(s) / 2
		if s[i] == 'A' {
			return s[:i] + "B" + s[i+1:]
		}
		return s[:i] + "A" + s[i+1:]
	}
	for _, r := range []struct {
		name string
		file []byte
		want evidence.Code
	}{
		{"another TPM's", foreign, evidence.CodeBinding},
		{"fewer PCRs", change("pcrs", func(any) any { return []int{4} }), evidence.CodeMeasurement},
		{"no PCR", change("pcrs", func(any) any { return []int{} }), evidence.CodePolicy},
		{"a PCR that doesn't exist", change("pcrs", func(any) any { return []int{4, 24} }), evidence.CodePolicy},
		{"PCRs in disorder", change("pcrs", func(any) any { return []int{7, 4} }), evidence.CodeParse},
		{"other values", change("values", flip), evidence.CodeMeasurement},
		{"another storage key", change("storage", flip), evidence.CodeBinding},
		{"a changed private area", change("private", flip), evidence.CodeBinding},
		{"no public area", change("public", func(any) any { return "" }), evidence.CodeBinding},
		{"another kind of file", []byte("hello"), evidence.CodeParse},
		{"empty", nil, evidence.CodeParse},
		{"cut", file[:len(file)-5], evidence.CodeParse},
		{"too large", append(bytes.Clone(file), bytes.Repeat([]byte(" "), 16<<10)...), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got, err := tpmseal.Unseal(m, r.file); evidence.CodeOf(err) != r.want || got != nil {
				t.Errorf("%q %v, want %q", got, err, r.want)
			}
		})
	}
	m.Reboot()
	m.Boot(map[int]string{4: "loader", 7: "secure boot off"})
	if _, err := tpmseal.Unseal(m, file); evidence.CodeOf(err) != evidence.CodeMeasurement {
		t.Errorf("booted differently: %v", err)
	}
	// The TPM refuses by itself too, whatever the file says of the values.
	now, err := tpmseal.Seal(m, []int{4, 7}, secret)
	if err != nil {
		t.Fatal(err)
	}
	var present struct{ Values string }
	if err := json.Unmarshal(now[bytes.IndexByte(now, '\n'):], &present); err != nil {
		t.Fatal(err)
	}
	if got, err := tpmseal.Unseal(m, change("values", func(any) any { return present.Values })); err == nil || got != nil || !strings.Contains(err.Error(), "TPM_RC_POLICY_FAIL") {
		t.Errorf("a policy of other values: %q %v", got, err)
	}
}

func TestSealRefuses(t *testing.T) {
	m := booted(t, "secure boot")
	for _, r := range []struct {
		name   string
		pcrs   []int
		secret []byte
		want   evidence.Code
	}{
		{"no PCR", nil, secret, evidence.CodePolicy},
		{"a PCR that doesn't exist", []int{24}, secret, evidence.CodePolicy},
		{"a negative PCR", []int{-1}, secret, evidence.CodePolicy},
		{"a PCR that was never extended", []int{7, 11}, secret, evidence.CodeMeasurement},
		{"a PCR of dynamic launch, all ones", []int{17}, secret, evidence.CodeMeasurement},
		{"no secret", []int{7}, nil, evidence.CodePolicy},
		{"a secret that is too long", []int{7}, make([]byte, 129), evidence.CodePolicy},
		{"as it should be", []int{7}, secret, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := tpmseal.Seal(m, r.pcrs, r.secret); evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") {
				t.Errorf("%v, want %q", err, r.want)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := tpmseal.Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a TPM that is not there was opened")
	}
}
