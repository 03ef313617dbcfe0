package compute_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/platform"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
)

var hostFacts = api.HostFacts{Name: "host-1", Launcher: "software", TEEs: []string{"snp"}, VCPUs: 64, MemoryMiB: 1 << 20, Slots: 1000, Zone: "1", Version: "test"}

// TestHostsProveTheirPlatforms: a host takes VMs only after a probe that answers to this host's own challenge.
func TestHostsProveTheirPlatforms(t *testing.T) {
	for _, r := range []struct {
		name   string
		answer func(api.Probe) api.ProbeReport
		want   string // what the refusal of a VM says; "" is a VM
	}{
		{"fit", goodProbe, ""},
		{"CP-05 no answer", nil, "not been probed yet"},
		{"CP-05 the host says why it can't", func(p api.Probe) api.ProbeReport {
			return api.ProbeReport{TEE: p.TEE, Nonce: p.Nonce, Failure: evidence.Refuse(evidence.CodeUnavailable, "probe", "no chip", "a report")}
		}, "probe is no chip, want a report"},
		{"CP-05 nothing at all", func(p api.Probe) api.ProbeReport { return api.ProbeReport{TEE: p.TEE, Nonce: p.Nonce} }, "not fit"},
		{"CP-05 what another host was asked for", func(p api.Probe) api.ProbeReport {
			data := api.ProbeData("host-2", p.Nonce)
			return api.ProbeReport{TEE: p.TEE, Nonce: p.Nonce, Evidence: data[:]}
		}, "not fit"},
		{"SVC-14 a challenge of its own", func(p api.Probe) api.ProbeReport {
			p.Nonce = bytes.Repeat([]byte{1}, api.NonceSize)
			return goodProbe(p)
		}, "not been probed yet"},
		{"CP-05 another TEE", func(p api.Probe) api.ProbeReport { p.TEE = "tdx"; return goodProbe(p) }, "not been probed yet"},
	} {
		t.Run(r.name, func(t *testing.T) {
			e := newEnv(t)
			nic := e.nic("n")
			host, _, err := e.certificate("host-1", joinWord)
			if err != nil {
				t.Fatal(err)
			}
			out, err := host.Report(t.Context(), api.Report{Host: hostFacts})
			if err != nil || len(out.Probes) != 1 {
				t.Fatalf("%v, %v", out, err)
			}
			if r.answer != nil {
				if _, err := host.Report(t.Context(), api.Report{Host: hostFacts, Probes: []api.ProbeReport{r.answer(out.Probes[0])}}); err != nil {
					t.Fatal(err)
				}
			}
			code, answer, _ := e.call("PUT", webURL, e.body(nic))
			text := fmt.Sprint(answer)
			if (code == http.StatusCreated) != (r.want == "") || !strings.Contains(text, r.want) {
				t.Errorf("%d %s, want %q", code, text, r.want)
			}
		})
	}
}

// TestProbesComeEachHour lets the clock run: a host is asked again after an hour, and takes no VMs when it stopped answering.
func TestProbesComeEachHour(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := newEnv(t, func(_ *compute.Config, d *compute.Deps) { d.Now = now })
	client, _, err := e.certificate("host-1", joinWord)
	if err != nil {
		t.Fatal(err)
	}
	asked := func() []api.Probe {
		out, err := client.Report(t.Context(), api.Report{Host: hostFacts})
		if err != nil {
			t.Fatal(err)
		}
		return out.Probes
	}
	first := asked()
	if len(first) != 1 || len(first[0].Nonce) != api.NonceSize || first[0].TEE != "snp" {
		t.Fatalf("%v", first)
	}
	if again := asked(); len(again) != 1 || !bytes.Equal(again[0].Nonce, first[0].Nonce) {
		t.Errorf("a probe under way is another: %v", again)
	}
	if _, err := client.Report(t.Context(), api.Report{Host: hostFacts, Probes: []api.ProbeReport{goodProbe(first[0])}}); err != nil {
		t.Fatal(err)
	}
	if more := asked(); len(more) != 0 {
		t.Errorf("asked at once again: %v", more)
	}
	ahead.Store(int64(platform.Every))
	second := asked()
	if len(second) != 1 || bytes.Equal(second[0].Nonce, first[0].Nonce) {
		t.Fatalf("after an hour: %v", second)
	}
}

// What a health configuration names has to be there, all of it, before anything starts.
func TestHealthFilesAreRead(t *testing.T) {
	e := newEnv(t)
	cfg := e.cfg
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Health.SoftwareRoots, cfg.Health.RevocationLists = []string{"/nonexistent/root.pem", broken}, []string{broken}
	_, err := compute.New(cfg, compute.Deps{Etcd: e.etcd, MintVM: e.issuer.MintVM, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for _, want := range []string{"health.softwareRoots: /nonexistent/root.pem", "health.softwareRoots: " + broken, "health.revocationLists: " + broken} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SVC-03: %v, want %s", err, want)
		}
	}
}
