// Package quota counts what a subscription uses in a region. Pure: the counts are written by whoever writes the VM,
// in the same transaction.
package quota

import (
	"fmt"
	"strings"
)

// The counters beside the families.
const (
	Cores = "cores"           // all vCPUs
	VMs   = "virtualMachines" // VMs
)

// Limits are upper bounds. A family without an entry has Family as its limit.
type Limits struct {
	Cores    int            `json:"cores"`
	VMs      int            `json:"virtualMachines"`
	Family   int            `json:"family"`
	Families map[string]int `json:"families,omitempty"`
}

// Of is the limit of one counter.
func (l Limits) Of(counter string) int {
	switch counter {
	case Cores:
		return l.Cores
	case VMs:
		return l.VMs
	}
	for name, n := range l.Families {
		if strings.EqualFold(name, counter) {
			return n
		}
	}
	return l.Family
}

// Usage counts.
type Usage struct {
	Used map[string]int `json:"used"`
}

// Need is what one VM takes: the vCPUs of its size, whatever a cap leaves of them.
type Need struct {
	Family string `json:"family"`
	VCPUs  int    `json:"vcpus"`
}

// Exceeded says which limit is too low.
type Exceeded struct {
	Counter                 string
	Limit, Used, Additional int
}

func (e *Exceeded) Error() string {
	what := e.Counter
	if e.Counter == Cores {
		what = "Total Regional"
	}
	return fmt.Sprintf("exceeding approved %s Cores quota: limit %d, usage %d, additional required %d", what, e.Limit, e.Used, e.Additional)
}

// Take counts a VM in, or says what stands against it and changes nothing.
func (u *Usage) Take(l Limits, n Need) error {
	for _, c := range counters(n) {
		if u.Used[c.name]+c.n > l.Of(c.name) {
			return &Exceeded{c.name, l.Of(c.name), u.Used[c.name], c.n}
		}
	}
	if u.Used == nil {
		u.Used = map[string]int{}
	}
	for _, c := range counters(n) {
		u.Used[c.name] += c.n
	}
	return nil
}

// Free counts a VM out. A counter never goes below zero.
func (u *Usage) Free(n Need) {
	for _, c := range counters(n) {
		if u.Used[c.name] -= c.n; u.Used[c.name] <= 0 {
			delete(u.Used, c.name)
		}
	}
}

type counter struct {
	name string
	n    int
}

func counters(n Need) []counter {
	return []counter{{n.Family, n.VCPUs}, {Cores, n.VCPUs}, {VMs, 1}}
}
