package scheduler

import (
	"strings"
	"testing"
)

func TestPick(t *testing.T) {
	good := Candidate{Host: Host{Name: "a", TEEs: []string{"snp"}, VCPUs: 8, MemoryMiB: 8192, Slots: 2, Zone: "1"}, Alive: true}
	need := Need{TEE: "snp", VCPUs: 4, MemoryMiB: 4096}
	with := func(change func(*Candidate)) Candidate {
		c := good
		change(&c)
		return c
	}
	for _, r := range []struct {
		name  string
		hosts []Candidate
		need  Need
		want  string // host, or what the refusal says
		ok    bool
	}{
		{"fits", []Candidate{good}, need, "a", true},
		{"fits in its zone", []Candidate{good}, Need{"snp", 4, 4096, "1"}, "a", true},
		{"spread", []Candidate{
			with(func(c *Candidate) { c.Placement.VMs = map[string]Need{"x": {"snp", 1, 1, ""}} }),
			with(func(c *Candidate) { c.Host.Name = "b" })}, need, "b", true},
		{"none joined", nil, need, "no host has joined", false},
		{"silent", []Candidate{with(func(c *Candidate) { c.Alive = false })}, need, "does not report", false},
		{"CP-05 host says why it takes none", []Candidate{with(func(c *Candidate) { c.Host.Cordoned = "report refused" })}, need, "report refused", false},
		{"CP-05 its platform is not fit", []Candidate{with(func(c *Candidate) { c.Unfit = map[string]string{"snp": "its platform is not fit: old"} })}, need, "not fit: old", false},
		{"unfit for another TEE", []Candidate{with(func(c *Candidate) { c.Unfit = map[string]string{"tdx": "not judged"} })}, need, "a", true},
		{"other TEE", []Candidate{good}, Need{"tdx", 4, 4096, ""}, "cannot run tdx", false},
		{"other zone", []Candidate{good}, Need{"snp", 4, 4096, "2"}, "is in zone", false},
		{"cores", []Candidate{good}, Need{"snp", 9, 4096, ""}, "8 vCPUs free, 9 needed", false},
		{"memory", []Candidate{good}, Need{"snp", 4, 8193, ""}, "8192 MiB free", false},
		{"slots", []Candidate{with(func(c *Candidate) { c.Host.Slots = 0 })}, need, "no encryption slot", false},
	} {
		t.Run(r.name, func(t *testing.T) {
			got, err := Pick(r.hosts, r.need)
			if (err == nil) != r.ok || r.ok && got != r.want || !r.ok && !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %q, %v; want %q", got, err, r.want)
			}
		})
	}
}
