package host

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
)

// probeTime bounds one probe.
const probeTime = 30 * time.Second

// probe answers what the control plane asks of the platform. What is under way, or waits to be reported, isn't begun again.
func (a *Agent) probe(ctx context.Context, wg *sync.WaitGroup, asked []api.Probe) {
	for _, p := range asked {
		a.mu.Lock()
		again := bytes.Equal(a.probed[p.TEE], p.Nonce)
		a.probed[p.TEE] = p.Nonce
		a.mu.Unlock()
		if !again {
			wg.Go(func() { a.runProbe(ctx, p) })
		}
	}
}

func (a *Agent) runProbe(ctx context.Context, p api.Probe) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	out := api.ProbeReport{TEE: p.TEE, Nonce: p.Nonce}
	raw, chain, err := a.deps.Launcher.Probe(ctx, p.TEE, api.ProbeData(a.cfg.Name, p.Nonce))
	var refusal *evidence.Refusal
	switch {
	case err == nil:
		out.Evidence, out.Chain = raw, chain
	case errors.As(err, &refusal):
		out.Failure = refusal
	default:
		a.log.Error("the platform could not be probed", "tee", p.TEE, "error", err)
		out.Failure = evidence.Refuse(evidence.CodeUnavailable, "probe", "it failed; the agent's log says why", "a report")
	}
	a.mu.Lock()
	a.probes = append(a.probes, out)
	a.mu.Unlock()
	a.wakeReporter()
}
