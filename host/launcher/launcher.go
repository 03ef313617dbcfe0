// Package launcher says what the agent needs to know of one way to start a VM's trusted part.
package launcher

import (
	"context"
	"os"

	"cloister.dev/cloister/host/api"
)

// Launcher starts VMs of one kind of root of trust. It is the only place where software mode and hardware differ
// on a host.
type Launcher interface {
	// Name is "software", "snp" or "tdx".
	Name() string
	// TEEs lists the TEE types whose evidence it can have: "snp", "tdx".
	TEEs() []string
	// Launch fixes what is measured and hands back what runs.
	Launch(context.Context, api.VMSpec) (*Launched, error)
	// Probe launches what holds nothing, and gives its evidence: an SNP report with its chain in PEM, or a TD quote.
	Probe(ctx context.Context, tee string, reportData [64]byte) (raw, chainPEM []byte, err error)
	// Destroy forgets a launch. A launch that is gone is no error.
	Destroy(ctx context.Context, handle string) error
}

// Launched is a measured launch.
type Launched struct {
	Firmware *os.File // the very bytes that were measured: sealed memory
	Handle   string   // what the paravisor shows to get evidence of this launch
	Socket   string   // where it shows it
	Accel    string   // QEMU's accelerator
	Notes    []string // what a tenant should read
}
