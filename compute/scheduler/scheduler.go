// Package scheduler picks the host of a VM. Pure: whoever calls it writes the placement in one transaction with
// the VM.
package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Host is what a host offers.
type Host struct {
	Name      string   `json:"name"`
	Launcher  string   `json:"launcher"`
	TEEs      []string `json:"tees"`
	VCPUs     int      `json:"vcpus"`
	MemoryMiB int      `json:"memoryMiB"`
	Slots     int      `json:"slots"` // encryption slots
	Zone      string   `json:"zone,omitempty"`
	Cordoned  string   `json:"cordoned,omitempty"` // why it takes no VMs
	Version   string   `json:"version,omitempty"`
}

// Need is what a VM needs.
type Need struct {
	TEE       string `json:"tee"`
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int    `json:"memoryMiB"`
	Zone      string `json:"zone,omitempty"` // "" is any
}

// Placement says what is taken on one host, by VM id.
type Placement struct {
	VMs map[string]Need `json:"vms"`
}

// Free is what is left on a host.
func (p Placement) Free(h Host) (vcpus, memory, slots int) {
	vcpus, memory, slots = h.VCPUs, h.MemoryMiB, h.Slots
	for _, n := range p.VMs {
		vcpus, memory, slots = vcpus-n.VCPUs, memory-n.MemoryMiB, slots-1
	}
	return
}

// Candidate is a host as it is now.
type Candidate struct {
	Host      Host
	Placement Placement
	Alive     bool              // its lease holds
	Unfit     map[string]string // why its platform takes no VMs, by TEE
}

// NoHost says why each host was passed over.
type NoHost struct {
	Need    Need
	Reasons []string // "host: reason"
}

func (e *NoHost) Error() string {
	if len(e.Reasons) == 0 {
		return "no host has joined"
	}
	return "no host fits: " + strings.Join(e.Reasons, "; ")
}

// Zonal tells whether hosts would fit in other zones.
func (e *NoHost) Zonal() bool { return e.Need.Zone != "" }

// Pick chooses the host with the fewest VMs, then most free memory, then by name.
func Pick(hosts []Candidate, n Need) (string, error) {
	var fit []Candidate
	refused := &NoHost{Need: n}
	for _, c := range hosts {
		if why := Unfit(c, n); why != "" {
			refused.Reasons = append(refused.Reasons, c.Host.Name+": "+why)
			continue
		}
		fit = append(fit, c)
	}
	if len(fit) == 0 {
		slices.Sort(refused.Reasons)
		return "", refused
	}
	best := slices.MinFunc(fit, func(a, b Candidate) int {
		_, ma, _ := a.Placement.Free(a.Host)
		_, mb, _ := b.Placement.Free(b.Host)
		return cmp.Or(cmp.Compare(len(a.Placement.VMs), len(b.Placement.VMs)), cmp.Compare(mb, ma), cmp.Compare(a.Host.Name, b.Host.Name))
	})
	return best.Host.Name, nil
}

// Unfit says why a host can't take a VM, or "".
func Unfit(c Candidate, n Need) string {
	vcpus, memory, slots := c.Placement.Free(c.Host)
	switch {
	case !c.Alive:
		return "does not report"
	case c.Host.Cordoned != "":
		return "takes no VMs: " + c.Host.Cordoned
	case !slices.Contains(c.Host.TEEs, n.TEE):
		return "cannot run " + n.TEE
	case c.Unfit[n.TEE] != "":
		return c.Unfit[n.TEE]
	case n.Zone != "" && c.Host.Zone != n.Zone:
		return fmt.Sprintf("is in zone %q", c.Host.Zone)
	case vcpus < n.VCPUs:
		return fmt.Sprintf("%d vCPUs free, %d needed", vcpus, n.VCPUs)
	case memory < n.MemoryMiB:
		return fmt.Sprintf("%d MiB free, %d needed", memory, n.MemoryMiB)
	case slots < 1:
		return "no encryption slot free"
	}
	return ""
}

// Never says why a host could not take a VM even when empty, or "".
func Never(h Host, n Need) string {
	return Unfit(Candidate{Host: h, Alive: true}, n)
}
