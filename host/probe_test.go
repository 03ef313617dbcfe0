package host

import (
	"bytes"
	"errors"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
)

// answers waits for so many answers to probes.
func (w *world) answers(n int) []api.ProbeReport {
	w.t.Helper()
	var out []api.ProbeReport
	w.awaitReport("an answer to the probe", func() bool {
		out = append([]api.ProbeReport(nil), w.control.probed...)
		return len(out) >= n
	})
	return out
}

// awaitReport looks at what the control plane has after each report.
func (w *world) awaitReport(what string, holds func() bool) {
	w.t.Helper()
	for range 200 {
		w.control.mu.Lock()
		ok, changed := holds(), w.control.changed
		w.control.mu.Unlock()
		if ok {
			return
		}
		<-changed // a report comes at least each api.ReportEvery
	}
	w.t.Fatalf("no %s", what)
}

// A probe that is asked for in every answer is made once, over this host's name and the nonce.
func TestProbeIsMadeOnceForANonce(t *testing.T) {
	w := newWorld(t)
	nonce := bytes.Repeat([]byte{7}, api.NonceSize)
	w.control.probes = []api.Probe{{TEE: "snp", Nonce: nonce}}
	w.run()
	defer w.stop()
	got := w.answers(1)[0]
	data := api.ProbeData(w.cfg.Name, nonce)
	if got.TEE != "snp" || !bytes.Equal(got.Nonce, nonce) || !bytes.Equal(got.Evidence, append([]byte("snp"), data[:]...)) || string(got.Chain) != "chain" || got.Failure != nil {
		t.Errorf("%+v", got)
	}
	// Some reports later, with the same nonce in each answer.
	reports := 0
	w.awaitReport("more reports", func() bool { reports++; return reports > 2 })
	w.launcher.mu.Lock()
	made := w.launcher.probes
	w.launcher.mu.Unlock()
	if n := len(w.answers(1)); made != 1 || n != 1 {
		t.Errorf("%d probes were made and %d reported", made, n)
	}
	w.control.mu.Lock()
	w.control.probes = []api.Probe{{TEE: "snp", Nonce: bytes.Repeat([]byte{8}, api.NonceSize)}}
	w.control.mu.Unlock()
	if second := w.answers(2)[1]; bytes.Equal(second.Evidence, got.Evidence) {
		t.Error("SVC-14: an answer to an earlier nonce")
	}
}

// A probe that fails is told as what it is: what is no refusal is not shown to the control plane.
func TestProbeFails(t *testing.T) {
	for name, r := range map[string]struct {
		err  error
		code evidence.Code
		got  string
	}{
		"CP-05 refused":  {evidence.Refuse(evidence.CodeUnsupported, "probe", "snp", "tdx"), evidence.CodeUnsupported, "snp"},
		"CP-05 an error": {errors.New("/run/secret/path: no such file"), evidence.CodeUnavailable, "it failed; the agent's log says why"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.launcher.err = r.err
			w.control.probes = []api.Probe{{TEE: "snp", Nonce: make([]byte, api.NonceSize)}}
			w.run()
			defer w.stop()
			if f := w.answers(1)[0].Failure; f == nil || f.Code != r.code || f.Got != r.got {
				t.Errorf("%v", f)
			}
		})
	}
}

func TestProbeDataIsOfThisHostAndNonce(t *testing.T) {
	a := api.ProbeData("host-1", []byte("n"))
	for name, b := range map[string][64]byte{"CP-05 another host": api.ProbeData("host-2", []byte("n")), "SVC-14 another nonce": api.ProbeData("host-1", []byte("m")),
		"SVC-32 the border moved": api.ProbeData("host-", []byte("1\x00n"))} {
		if a == b {
			t.Error(name)
		}
	}
	if a != api.ProbeData("host-1", []byte("n")) {
		t.Error("not the same twice")
	}
}
