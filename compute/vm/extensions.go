package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// AddEvents appends to a VM's journey. Events that are already in it (an agent repeats after a lost answer) are
// not added twice.
func (s *Service) AddEvents(ctx context.Context, vmID string, events []api.Event) error {
	for len(events) > 0 {
		it, err := s.Journeys.Get(ctx, vmID)
		if errors.Is(err, store.ErrNotFound) {
			it = store.Item[Journey]{ID: vmID}
		} else if err != nil {
			return err
		}
		j := &it.Value
		for _, e := range events {
			e.VMID = vmID
			if !slices.ContainsFunc(j.Events, func(o api.Event) bool {
				return o.Time.Equal(e.Time) && o.Step == e.Step && o.State == e.State
			}) {
				j.Events = append(j.Events, e)
			}
		}
		if n := len(j.Events); n > maxEvents {
			j.Events = j.Events[n-maxEvents:]
		}
		if err := s.Journeys.Update(ctx, it); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// JourneyView is the answer of the journey extension.
type JourneyView struct {
	VMID            string            `json:"vmId"`
	Phase           string            `json:"phase"`
	Power           string            `json:"power"`
	Provisioning    string            `json:"provisioningState"`
	Host            string            `json:"host"`
	SSHEndpoint     string            `json:"sshEndpoint,omitempty"`
	OperatorTrusted bool              `json:"operatorTrusted"`
	Failure         *evidence.Refusal `json:"failure,omitempty"`
	Notes           []string          `json:"notes"`
	VCPUs           int               `json:"vcpus"`     // what the VM really has
	MemoryMiB       int               `json:"memoryMiB"` // what the VM really has
	CPUModel        string            `json:"cpuModel"`
	ImageDigest     string            `json:"imageDigest"`
	RestartCount    uint64            `json:"restartCount"`
	Events          []api.Event       `json:"events"`
}

func (s *Service) journey(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.kind().Find(ctx, r.ID())
	if err != nil {
		return nil, err
	}
	v := it.Value
	seen, err := s.observed(ctx, v)
	if err != nil {
		return nil, err
	}
	out := JourneyView{VMID: v.VMID, Phase: api.PhasePending, Power: powerState(v, seen), Provisioning: v.Provisioning, Host: v.Host, OperatorTrusted: v.OperatorTrusted, Notes: v.notes(seen),
		VCPUs: v.VCPUs, MemoryMiB: v.MemoryMiB, CPUModel: v.CPUModel, ImageDigest: v.Image.Digest, Events: []api.Event{}}
	if seen != nil {
		out.Phase, out.SSHEndpoint, out.Failure, out.RestartCount = seen.Phase, seen.SSHEndpoint, seen.Failure, seen.RestartCount
		if seen.Generation < v.Generation && out.Phase == api.PhaseFailed {
			out.Phase, out.Failure = api.PhasePending, nil // that was the last attempt; the next is asked for
		}
	}
	j, err := s.Journeys.Get(ctx, v.VMID)
	if err == nil {
		out.Events = j.Value.Events
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return arm.OK(out), nil
}

// nonce sizes in bytes: 16 is the least that can't be guessed, 64 the most that a quote carries.
const minNonce, maxNonce = 16, 64

func (s *Service) attest(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		Nonce []byte `json:"nonce"`
	}
	if err := arm.Decode(r.Body, arm.Shape{"nonce": arm.Text}, &b); err != nil {
		return nil, err
	}
	if n := len(b.Nonce); n < minNonce || n > maxNonce {
		return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "nonce has %d bytes; want %d to %d, in base64.", n, minNonce, maxNonce).At("nonce")
	}
	a, err := s.ask(ctx, r.ID(), api.Request{Kind: api.RequestAttest, Nonce: b.Nonce})
	if err != nil {
		return nil, err
	}
	return arm.OK(a.Bundle), nil
}

func (s *Service) console(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	a, err := s.ask(ctx, r.ID(), api.Request{Kind: api.RequestConsole})
	if err != nil {
		return nil, err
	}
	raw := a.Console
	if raw == nil {
		raw = []byte{}
	}
	return &arm.Response{Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}}, Raw: raw}, nil
}

// metadata answers what the VM's metadata service would, identity tokens excepted.
func (s *Service) metadata(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		Path string `json:"path"`
	}
	if err := arm.Decode(r.Body, arm.Shape{"path": arm.Text}, &b); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(b.Path, "/metadata/") {
		return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "path must begin with /metadata/.").At("path")
	}
	a, err := s.ask(ctx, r.ID(), api.Request{Kind: api.RequestMetadata, Path: b.Path})
	if err != nil {
		return nil, err
	}
	return arm.OK(a.Metadata), nil
}

// ask sends a question to a VM's host and waits for the answer.
func (s *Service) ask(ctx context.Context, id arm.ID, q api.Request) (*api.Answer, error) {
	it, err := s.kind().Find(ctx, id)
	if err != nil {
		return nil, err
	}
	v := it.Value
	if q.Kind == api.RequestAttest && v.Power != api.PowerRunning {
		return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' is not running.", v.Meta.ID.Name)
	}
	q.ID, q.VMID = uuid.NewString(), v.VMID
	_, rev, err := s.Questions.List(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	wait := s.Wait
	ttl := int64(wait/time.Second) + 10 // an answer that nobody waits for any more goes by itself
	if err := s.Questions.PutLeased(ctx, q.ID, Question{Host: v.Host, Request: q}, ttl); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	got := errors.New("answered")
	var answer *api.Answer
	err = s.Questions.Watch(ctx, q.ID, rev, func(e store.Event[Question]) error {
		if answer = e.Item.Value.Answer; answer != nil {
			return got
		}
		return nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, arm.Errorf(http.StatusConflict, "VMDoesNotAnswer", "VM '%s' did not answer within %s. It may still be booting: see its journey.", v.Meta.ID.Name, wait)
	case !errors.Is(err, got):
		return nil, fmt.Errorf("waiting for a VM's answer: %w", err)
	case answer.Failure != nil:
		return nil, arm.Errorf(http.StatusConflict, "VMRefused", "%s", answer.Failure.Error()).At(answer.Failure.Field)
	}
	return answer, nil
}

// Answered stores the answer to a question, if it is still asked and was asked of this host.
func (s *Service) Answered(ctx context.Context, host, vmID, id string, a api.Answer) error {
	it, err := s.Questions.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && (it.Value.Host != host || it.Value.Request.VMID != vmID) {
		return evidence.Refuse(evidence.CodeBinding, "request id", id, "a request to this host that still waits")
	} else if err != nil {
		return err
	}
	it.Value.Answer = &a
	return s.Questions.PutLeased(ctx, id, it.Value, 10)
}
