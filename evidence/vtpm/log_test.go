package vtpm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"cloister.dev/cloister/evidence"
)

func vector(t testing.TB, parts ...string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(append([]string{dir}, parts...)...))
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED, NOT TESTED: vector %v is missing; set CLOISTER_VECTORS", parts)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// published are PCR values of somebody else: bank, then PCR, then hex digits.
type published map[string]map[string]string

var bankNames = map[string]Bank{"sha1": SHA1, "sha256": SHA256, "sha384": SHA384, "sha512": SHA512}

// differs names the first PCR whose replay is not what was published; empty: all are equal.
func (p published) differs(t testing.TB, l *Log) string {
	t.Helper()
	for name, pcrs := range p {
		got, err := l.Replay(bankNames[name])
		if err != nil {
			return name + ": " + err.Error()
		}
		for n, want := range pcrs {
			i, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got[i]) != want {
				return name + " PCR " + n
			}
		}
	}
	return ""
}

// TestRealLogs replays logs of other vendors to the values that others published for them, and judges them by the rules
// that every vendor's log keeps.
func TestRealLogs(t *testing.T) {
	type row struct {
		folder  []string
		file    string
		pcrs    published
		profile bool // the rules of the firmware profile hold
		strict  bool // so do those for our own images
	}
	var older map[string]published
	if err := json.Unmarshal(vector(t, "tcg-eventlogs", "expected-pcrs.json"), &older); err != nil {
		t.Fatal(err)
	}
	var newer map[string]struct{ PCRs published }
	if err := json.Unmarshal(vector(t, "launch", "tcg-logs", "expected.json"), &newer); err != nil {
		t.Fatal(err)
	}
	var rows []row
	strict := map[string]bool{"cos-101-amd-sev.bin": true, "ubuntu-1804-amd-sev.bin": true, "ubuntu-2104-no-dbx.bin": true, "ubuntu-2104-no-secure-boot.bin": true,
		"eventlogwithsp800155.bin": true, "confidential-gke-debug-251000_eventlog.bin": true, "cos-85-amd-sev.bin": true, "cos-93-amd-sev.bin": true,
		"coreos_36_shielded_vm_no_secure_boot_eventlog": true, "option_rom_eventlog": true, "event-bootorder.bin": true, "event-moklisttrusted.bin": true,
		"event-sd-boot-fedora37.bin": true, "keylime-binary_bios_measurements-secureboot": true}
	for name, pcrs := range older {
		if name != "ebs_event_missing_eventlog" { // see below
			rows = append(rows, row{[]string{"tcg-eventlogs"}, name, pcrs, true, strict[name]})
		}
	}
	for _, name := range []string{"crypto_agile_eventlog", "option_rom_eventlog", "ebs_event_missing_eventlog"} { // no values published
		rows = append(rows, row{[]string{"tcg-eventlogs"}, name, nil, true, strict[name]})
	}
	for name, e := range newer {
		folder := []string{"launch", "tcg-logs"}
		if base := filepath.Base(name); base != name {
			folder, name = []string{"tcg-eventlogs"}, base
		}
		if name == "specid-vendordata.bin" || name == "keylime-binary_bios_measurements-bogus" {
			continue
		}
		rows = append(rows, row{folder, name, e.PCRs, true, strict[name]})
	}
	for _, r := range rows {
		t.Run(r.file, func(t *testing.T) {
			l, err := ParseEventLog(vector(t, append(r.folder, r.file)...))
			if err != nil {
				t.Fatal(err)
			}
			if d := r.pcrs.differs(t, l); d != "" {
				t.Error("replay: ", d)
			}
			if err := l.Check(Profile); (err == nil) != r.profile {
				t.Errorf("rules of the profile: %v", err)
			}
			if err := l.Check(Strict); (err == nil) != r.strict {
				t.Errorf("strict rules: %v", err)
			}
			if len(l.Banks) == 1 && l.Banks[0] == SHA1 {
				if _, err := l.Replay(SHA256); evidence.CodeOf(err) != evidence.CodeMeasurement {
					t.Errorf("TPM-12 a log of the SHA-1 bank alone, asked for SHA-256: %v", err)
				}
				if err := l.Explains(PCRs{}); evidence.CodeOf(err) != evidence.CodeMeasurement {
					t.Errorf("TPM-12 %v", err)
				}
			}
		})
	}
	t.Run("TPM-06 exit from boot services left out", func(t *testing.T) {
		l, err := ParseEventLog(vector(t, "tcg-eventlogs", "ebs_event_missing_eventlog"))
		if err != nil {
			t.Fatal(err)
		}
		if d := older["ebs_event_missing_eventlog"].differs(t, l); d == "" {
			t.Error("a log without its last events explains PCR 5")
		}
	})
	for _, name := range []string{"short_no_action_eventlog", "sb_cert_eventlog"} { // not whole: they parse, and no rules take them
		l, err := ParseEventLog(vector(t, "tcg-eventlogs", name))
		if err != nil {
			t.Fatal(err)
		}
		if l.Check(Profile) == nil || l.Check(Strict) == nil {
			t.Errorf("%s: a log without separators is taken", name)
		}
	}
	if l, err := ParseEventLog(vector(t, "launch", "tcg-logs", "specid-vendordata.bin")); err != nil || len(l.Events) != 0 || len(l.Banks) != 2 {
		t.Errorf("vendor data in the first record: %v", err)
	}
	if _, err := ParseEventLog(vector(t, "launch", "tcg-logs", "keylime-binary_bios_measurements-bogus")); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("TPM-06 a text in place of a log: %v", err)
	}
}

// TestHostileLogs: each log is refused by its form, by the rules, or by the PCRs it must replay to.
func TestHostileLogs(t *testing.T) {
	dir := []string{"launch", "tcg-logs-negative"}
	var e struct {
		Base  string
		PCRs  published `json:"base_pcrs"`
		Cases []struct {
			File, Verdict, Why string
			PCRs               published
		}
	}
	if err := json.Unmarshal(vector(t, append(dir, "expected.json")...), &e); err != nil {
		t.Fatal(err)
	}
	judge := func(t *testing.T, rules Rules, file string, pcrs published) error {
		l, err := ParseEventLog(vector(t, append(dir, file)...))
		if err != nil {
			return err
		}
		if d := pcrs.differs(t, l); d != "" {
			return badLog("replay", d, "the PCRs quoted")
		}
		return l.Check(rules)
	}
	for _, rules := range []Rules{Strict, Profile} {
		t.Run(rules.String(), func(t *testing.T) {
			if err := judge(t, rules, e.Base, e.PCRs); err != nil {
				t.Errorf("TPM-04 positive twin: %v", err)
			}
			for _, c := range e.Cases {
				// An attacker who really extended has other PCRs; the log is judged against both.
				sets := []published{e.PCRs}
				if c.PCRs != nil {
					sets = append(sets, c.PCRs)
				}
				accepted := false
				for _, pcrs := range sets {
					accepted = accepted || judge(t, rules, c.File, pcrs) == nil
				}
				if want := c.File == "20-startup-locality-3.bin"; accepted != want {
					t.Errorf("TPM-04 TPM-05 TPM-06 %s accepted: %t. %s", c.File, accepted, c.Why)
				}
			}
		})
	}
	t.Run("no rules", func(t *testing.T) {
		if judge(t, Rules{}, e.Base, e.PCRs) == nil {
			t.Error("the zero value of Rules takes a log")
		}
	})
}

// record is one record of a log that is made here; its digest is of its data.
type record struct {
	pcr  int
	typ  uint32
	data string
}

func logOf(records []record) *Log {
	l := &Log{Banks: []Bank{SHA256}}
	for _, r := range records {
		h := bankHash[SHA256].New()
		h.Write([]byte(r.data))
		l.Events = append(l.Events, LogEvent{PCR: r.pcr, Type: r.typ, Digests: map[Bank][]byte{SHA256: h.Sum(nil)}, Data: []byte(r.data)})
	}
	return l
}

const zero4 = "\x00\x00\x00\x00"

func measured(name, value string) string {
	b := bytes.Clone(globalVariable[:])
	b = binary.LittleEndian.AppendUint64(b, uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	for _, c := range name {
		b = binary.LittleEndian.AppendUint16(b, uint16(c))
	}
	return string(append(b, value...))
}

func goodRecords() []record {
	out := []record{{0, evCRTM, "v"}, {7, evVariable, measured("SecureBoot", "\x01")}, {7, evVariable, measured("PK", "k")}}
	for n := range 8 {
		out = append(out, record{n, evSeparator, zero4})
	}
	return append(out, record{7, evAuthority, "db"}, record{4, evApplication, "uki"},
		record{5, evAction, "Exit Boot Services Invocation"}, record{5, evAction, "Exit Boot Services Returned with Success"})
}

// TestRules: one thing wrong at a time.
func TestRules(t *testing.T) {
	if err := logOf(goodRecords()).Check(Strict); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	insert := func(at int, r record) func([]record) []record {
		return func(in []record) []record { return append(append(append([]record(nil), in[:at]...), r), in[at:]...) }
	}
	drop := func(at int) func([]record) []record {
		return func(in []record) []record { return append(append([]record(nil), in[:at]...), in[at+1:]...) }
	}
	for _, r := range []struct {
		name            string
		change          func([]record) []record
		strict, profile bool
	}{
		{"TPM-04 a type that says nothing", insert(1, record{7, 2, "x"}), false, false},
		{"TPM-04 a type that says nothing in PCR 1", insert(1, record{1, 0, "x"}), false, false},
		{"TPM-04 a type of tomorrow", insert(1, record{2, 0x80000099, "x"}), false, false},
		{"TPM-04 a tag in PCR 7", insert(1, record{7, evEventTag, "x"}), false, false},
		{"a tag in PCR 6", insert(1, record{6, evEventTag, "x"}), false, true},
		{"a compact hash in PCR 6", insert(1, record{6, evCompact, "x"}), false, true},
		{"a partition table in PCR 2", insert(1, record{2, evGPT, "x"}), false, true},
		{"memory without DMA protection", insert(2, record{7, evAction, "DMA Protection Disabled"}), false, true},
		{"a driver's authority before the separator", insert(2, record{7, evAuthority, "db"}), false, true},
		{"an action first in PCR 7", insert(1, record{7, evAction, "UEFI Debug Mode"}), false, true},
		{"TPM-04 a variable behind the separator", insert(11, record{7, evVariable, measured("x", "")}), false, false},
		{"TPM-04 an action behind the separator", insert(11, record{7, evAction, "x"}), false, false},
		{"TPM-04 a second separator", insert(11, record{7, evSeparator, zero4}), false, false},
		{"TPM-04 no separator in PCR 6", drop(9), false, false},
		{"firmware reports an error", insert(3, record{3, evSeparator, "\xff\xff\xff\xff"}), false, false},
		{"TPM-06 boot services never left", func(in []record) []record { return in[:len(in)-2] }, false, true},
		{"TPM-06 boot services asked for only", func(in []record) []record { return in[:len(in)-1] }, false, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			l := logOf(r.change(goodRecords()))
			if err := l.Check(Strict); (err == nil) != r.strict {
				t.Errorf("strict: %v", err)
			}
			if err := l.Check(Profile); (err == nil) != r.profile {
				t.Errorf("profile: %v", err)
			}
		})
	}
	for i, e := range logOf(goodRecords()).Events {
		if !dataCovered(e.PCR, e.Type) {
			continue
		}
		l := logOf(goodRecords())
		l.Events[i].Data = append(l.Events[i].Data, 1)
		if l.Check(Profile) == nil {
			t.Errorf("TPM-05 event %d has other data than its digest", i)
		}
	}
}

func TestSecureBootVariables(t *testing.T) {
	l := logOf(goodRecords())
	if v, err := l.SecureBootVariables(); err != nil || !v.On() || string(v.PK) != "k" || v.KEK != nil {
		t.Fatalf("positive twin: %+v, %v", v, err)
	}
	if on, err := l.SecureBoot(); err != nil || !on {
		t.Fatalf("positive twin: %v", err)
	}
	off := goodRecords()
	off[1].data = measured("SecureBoot", "")
	if on, err := logOf(off).SecureBoot(); err != nil || on {
		t.Errorf("an empty variable is on, or refused: %v", err)
	}
	stranger := []byte(measured("SecureBoot", "\x01"))
	stranger[0] ^= 1
	for name, change := range map[string]func([]record){
		"TPM-04 twice":                 func(r []record) { r[2].data = r[1].data },
		"TPM-04 another vendor's":      func(r []record) { r[1].data = string(stranger) },
		"TPM-04 behind the separator":  func(r []record) { r[1], r[10] = r[10], r[1] },
		"sizes that do not fit":        func(r []record) { r[1].data += "x" },
		"TPM-04 a separator elsewhere": func(r []record) { r[10].pcr = 6 },
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRecords()
			change(r)
			if _, err := logOf(r).SecureBootVariables(); evidence.CodeOf(err) != evidence.CodeMeasurement {
				t.Errorf("got %v", err)
			}
			if on, err := logOf(r).SecureBoot(); err == nil || on {
				t.Errorf("got %t, %v", on, err)
			}
		})
	}
	t.Run("TPM-05 other data than the digest", func(t *testing.T) {
		l := logOf(goodRecords())
		l.Events[1].Data[len(l.Events[1].Data)-1] = 0
		if _, err := l.SecureBoot(); evidence.CodeOf(err) != evidence.CodeMeasurement {
			t.Errorf("got %v", err)
		}
	})
}

// TestLogIsCutEverywhere: no prefix of a good log explains its PCRs.
func TestLogIsCutEverywhere(t *testing.T) {
	raw := vector(t, "tcg-eventlogs", "ubuntu-2104-no-secure-boot.bin")
	whole, err := ParseEventLog(raw)
	if err != nil {
		t.Fatal(err)
	}
	values, err := whole.Replay(SHA256)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := PCRs{}
	for n, v := range values {
		pcrs[n] = [32]byte(v)
	}
	if err := whole.Explains(pcrs); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	// What follows the last event of PCR 0 to 7 belongs to the boot loader.
	end := 0
	for n := range raw {
		l, err := ParseEventLog(raw[:n])
		if code := evidence.CodeOf(err); err != nil && code != evidence.CodeParse && (n > 0 || code != evidence.CodeMeasurement) {
			t.Fatalf("TPM-06 prefix of %d bytes: %v", n, err)
		}
		if err == nil && l.Explains(pcrs) == nil {
			end = n
			break
		}
	}
	if l, err := ParseEventLog(raw[:end]); end > 0 && (err != nil || l.Events[len(l.Events)-1].PCR > 7) {
		t.Errorf("TPM-06 a prefix of %d bytes explains the PCRs", end)
	}
	if _, err := ParseEventLog(nil); evidence.CodeOf(err) != evidence.CodeMeasurement {
		t.Errorf("TPM-06 no log: %v", err)
	}
	delete(pcrs, 3)
	if whole.Explains(pcrs) == nil {
		t.Error("TPM-03 a PCR that was not quoted is explained")
	}
}

func TestExitBootServices(t *testing.T) {
	const call, success, failure = "Invocation", "Returned with Success", "Returned with Failure"
	for _, r := range []struct {
		name  string
		exits []string
		good  bool
	}{
		{"left at once", []string{call, success}, true},
		{"left at the second try", []string{failure, call, success}, true},
		{"left at the second call", []string{call, failure, call, success}, true},
		{"TPM-06 never left", nil, false},
		{"TPM-06 called only", []string{call}, false},
		{"called twice, never left", []string{call, call}, false},
		{"failed", []string{call, failure}, false},
		{"left twice", []string{call, success, call, success}, false},
		{"a text that no firmware writes", []string{"x", call, success}, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := checkExit(r.exits); (err == nil) != r.good {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzEventLog(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(binary.LittleEndian.AppendUint32(nil, 0), make([]byte, 28)...))
	for _, name := range []string{"short_no_action_eventlog", "debian-10.bin", "arch-linux-workstation.bin"} {
		dir := os.Getenv("CLOISTER_VECTORS")
		if dir == "" {
			dir = "../../../shared/vectors"
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "tcg-eventlogs", name)); err == nil {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ParseEventLog(raw)
		if err != nil {
			return
		}
		for _, b := range l.Banks {
			_, _ = l.Replay(b)
		}
		_, _ = l.SecureBootVariables()
		if l.Check(Strict) == nil && l.Check(Profile) != nil {
			t.Fatal("the strict rules take what the profile refuses")
		}
	})
}
