package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cloister.dev/cloister/compute/platform"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

var afterHealth = failpoint.New("compute/host-health-written")

// Judge says what a probe's evidence says of a platform. The evidence must carry the report data, 64 bytes.
type Judge func(p api.ProbeReport, reportData [64]byte, now time.Time) health.State

// probe takes the probes that a host answered, and gives those that it should answer next.
func (s *Service) probe(ctx context.Context, f api.HostFacts, answers []api.ProbeReport) ([]api.Probe, error) {
	it, err := s.VMs.Health.Get(ctx, f.Name)
	if errors.Is(err, store.ErrNotFound) {
		it = store.Item[platform.Health]{ID: f.Name}
	} else if err != nil {
		return nil, err
	}
	now, probes := s.Now().UTC(), maps.Clone(it.Value.Probes)
	if probes == nil {
		probes = map[string]platform.Probe{}
	}
	changed := false
	for _, a := range answers {
		p, known := probes[a.TEE]
		if !known || !p.Answers(a.Nonce) {
			continue // one that was given up, or that came twice
		}
		state := s.judge(f.Name, a)
		probes[a.TEE], changed = p.Take(state, now), true
		s.Log.Info("host probed", "host", f.Name, "tee", a.TEE, "verdict", state.Verdict, "chip", state.ChipID, "tcb", state.TCB, "unfit", platform.Health{Probes: probes}.Unfit(a.TEE, now))
	}
	var ask []api.Probe
	for _, tee := range f.TEEs {
		p := probes[tee]
		if p.Due(now) {
			nonce := make([]byte, api.NonceSize)
			if _, err := rand.Read(nonce); err != nil {
				return nil, err
			}
			p = p.Ask(nonce, now)
			probes[tee], changed = p, true
		}
		if len(p.Nonce) > 0 {
			ask = append(ask, api.Probe{TEE: tee, Nonce: p.Nonce})
		}
	}
	maps.DeleteFunc(probes, func(tee string, _ platform.Probe) bool {
		gone := !slices.Contains(f.TEEs, tee)
		changed = changed || gone
		return gone
	})
	if !changed {
		return ask, nil
	}
	it.Value = platform.Health{Probes: probes}
	tx := s.DB.Txn()
	s.VMs.Health.UpdateIn(tx, it)
	if err := tx.Commit(ctx); errors.Is(err, store.ErrConflict) {
		return nil, nil // another replica took a report of this host: the next one is answered
	} else if err != nil {
		return nil, fmt.Errorf("health of host %s: %w", f.Name, err)
	}
	afterHealth.Hit()
	return ask, nil
}

func (s *Service) judge(host string, a api.ProbeReport) health.State {
	if a.Failure != nil {
		return health.NoEvidence(a.Failure)
	}
	return s.Judge(a, api.ProbeData(host, a.Nonce), s.Now())
}

// JudgeBy judges by floors and roots of the operator's. There is none for TDs yet: such a host stays unfit for them.
func JudgeBy(floor health.Floor, o health.Options) Judge {
	return func(p api.ProbeReport, reportData [64]byte, now time.Time) health.State {
		if p.TEE != "snp" {
			return health.NoEvidence(evidence.Refuse(evidence.CodeUnavailable, "probe", p.TEE, "snp: probes of other kinds are not judged"))
		}
		o := o
		o.Challenge, o.At = reportData, now
		return health.SEVSNP(p.Evidence, p.Chain, floor, o)
	}
}
