package hosts

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

var (
	afterToken  = failpoint.New("compute/join-token-used")
	afterStatus = failpoint.New("compute/vm-status-written")
)

// UsedToken remembers a one-time token.
type UsedToken struct {
	Host string    `json:"host"`
	Key  string    `json:"key"` // hex SHA-256 of the public key that it was redeemed for
	At   time.Time `json:"at"`
}

// Service serves the agent API.
type Service struct {
	DB     *store.DB
	Tokens store.Store[UsedToken] // by hex SHA-256 of the token
	VMs    *vm.Service
	CA     *CA
	// TokenDigests are the hex SHA-256 of the one-time tokens that may be redeemed.
	TokenDigests []string
	// MintVM makes the managed-identity token of a VM.
	MintVM func(vmID, resourceID, audience string) (string, error)
	// Judge judges the platforms of hosts.
	Judge Judge
	Now   func() time.Time
	Log   *slog.Logger
}

// maxReport bounds the body of any agent call, in bytes.
const maxReport = 16 << 20

// Handler is the API. It must be served over TLS that asks for client certificates of the agent CA.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathJoin, s.serve(s.join))
	mux.HandleFunc("POST "+api.PathRenew, s.serve(s.asHost(s.renew)))
	mux.HandleFunc("POST "+api.PathReport, s.serve(s.asHost(s.report)))
	mux.HandleFunc("POST "+api.PathVMs+"{vmid}/identity", s.serve(s.asHost(s.identity)))
	mux.HandleFunc("POST "+api.PathVMs+"{vmid}/answers/{id}", s.serve(s.asHost(s.answer)))
	mux.HandleFunc("GET "+api.PathWatch, s.watch)
	return mux
}

type call func(r *http.Request) (any, error)

// serve writes answers and refusals, and logs once what is not the agent's fault.
func (s *Service) serve(f call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxReport)
		out, err := f(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if out == nil {
			out = struct{}{}
		}
		if err := json.NewEncoder(w).Encode(out); err != nil {
			s.Log.Warn("answering an agent", "path", r.URL.Path, "error", err)
		}
	}
}

func (s *Service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadRequest
	ref := new(evidence.Refusal)
	if !errors.As(err, &ref) {
		s.Log.Error("agent call failed", "path", r.URL.Path, "error", err)
		ref, status = evidence.Refuse(evidence.CodeUnavailable, "control plane", "an internal error", "an answer"), http.StatusInternalServerError
	} else if ref.Code == evidence.CodeAuthz {
		status = http.StatusForbidden
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.ErrorResponse{Error: *ref}) // the agent has gone: nobody to tell
}

func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	if err := dec.Decode(into); err != nil {
		return evidence.Refuse(evidence.CodeParse, "body", err.Error(), "JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return evidence.Refuse(evidence.CodeParse, "body", "text after the object", "one JSON object")
	}
	return nil
}

// host is the name in the client certificate that TLS has verified. Nothing in headers or bodies counts.
func host(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", evidence.Refuse(evidence.CodeAuthz, "client certificate", "none", "one of the agent CA")
	}
	name := r.TLS.VerifiedChains[0][0].Subject.CommonName
	if !HostName.MatchString(name) {
		return "", evidence.Refuse(evidence.CodeAuthz, "client certificate", fmt.Sprintf("%q", name), "a host name")
	}
	return name, nil
}

func (s *Service) asHost(f func(name string, r *http.Request) (any, error)) call {
	return func(r *http.Request) (any, error) {
		name, err := host(r)
		if err != nil {
			return nil, err
		}
		return f(name, r)
	}
}

func (s *Service) join(r *http.Request) (any, error) {
	var in api.JoinRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(in.Token))
	digest := hex.EncodeToString(sum[:])
	known := 0
	for _, d := range s.TokenDigests {
		known |= subtle.ConstantTimeCompare([]byte(d), []byte(digest))
	}
	unknown := evidence.Refuse(evidence.CodeAuthz, "join token", "unknown or used", "a one-time token that was not used yet")
	if in.Token == "" || known == 0 {
		return nil, unknown
	}
	csr, err := parseCSR(in.CSR) // before the token is spent
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	used := UsedToken{Host: csr.Subject.CommonName, Key: hex.EncodeToString(key[:]), At: s.Now().UTC()}
	err = s.Tokens.Create(r.Context(), digest, used)
	if errors.Is(err, store.ErrExists) {
		// The same host with the same key asks again: it, or this service, died before the answer arrived.
		before, err := s.Tokens.Get(r.Context(), digest)
		if err != nil {
			return nil, err
		}
		if before.Value.Host != used.Host || before.Value.Key != used.Key {
			return nil, unknown
		}
	} else if err != nil {
		return nil, err
	}
	afterToken.Hit()
	s.Log.Info("host joined", "host", csr.Subject.CommonName)
	cert, err := s.CA.sign(csr, s.Now())
	if err != nil {
		return nil, err
	}
	return api.JoinResponse{Host: csr.Subject.CommonName, Certificate: cert, CA: s.CA.PEM()}, nil
}

func (s *Service) renew(name string, r *http.Request) (any, error) {
	var in api.RenewRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	csr, err := parseCSR(in.CSR)
	if err != nil {
		return nil, err
	}
	if csr.Subject.CommonName != name {
		return nil, evidence.Refuse(evidence.CodeAuthz, "csr common name", csr.Subject.CommonName, name)
	}
	cert, err := s.CA.sign(csr, s.Now())
	if err != nil {
		return nil, err
	}
	return api.JoinResponse{Host: name, Certificate: cert, CA: s.CA.PEM()}, nil
}

func (s *Service) report(name string, r *http.Request) (any, error) {
	var in api.Report
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Host.Name != name {
		return nil, evidence.Refuse(evidence.CodeAuthz, "host.name", in.Host.Name, name)
	}
	ctx := r.Context()
	if err := s.facts(ctx, in.Host); err != nil {
		return nil, err
	}
	if err := s.VMs.Alive.PutLeased(ctx, name, s.Now().UTC(), int64(api.LeaseTTL/time.Second)); err != nil {
		return nil, err
	}
	// Events first: a status may end an operation, and whoever waited for it reads the journey next.
	byVM := map[string][]api.Event{}
	for _, e := range in.Events {
		byVM[e.VMID] = append(byVM[e.VMID], e)
	}
	for id, events := range byVM {
		if it, err := s.find(ctx, name, id); err != nil {
			return nil, err
		} else if it == nil {
			continue
		}
		if err := s.VMs.AddEvents(ctx, id, events); err != nil {
			return nil, err
		}
	}
	for _, st := range in.VMs {
		if err := s.status(ctx, name, st); err != nil {
			return nil, err
		}
	}
	for _, st := range in.Disks {
		if err := s.VMs.Disks.Reported(ctx, name, st); err != nil {
			return nil, err
		}
	}
	probes, err := s.probe(ctx, in.Host, in.Probes)
	if err != nil {
		return nil, err
	}
	return api.ReportResponse{Probes: probes}, nil
}

// facts writes what a host offers, when it has changed.
func (s *Service) facts(ctx context.Context, f api.HostFacts) error {
	h := scheduler.Host{Name: f.Name, Launcher: f.Launcher, TEEs: f.TEEs, VCPUs: f.VCPUs, MemoryMiB: f.MemoryMiB, Slots: f.Slots, Zone: f.Zone, Cordoned: f.Cordoned, Version: f.Version}
	it, err := s.VMs.Hosts.Get(ctx, f.Name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && reflect.DeepEqual(it.Value, h) {
		return nil
	}
	return s.VMs.Hosts.Put(ctx, f.Name, h)
}

// find is the VM with an id if it lies on a host, or nil.
func (s *Service) find(ctx context.Context, host, vmID string) (*store.Item[vm.VM], error) {
	if vmID == "" {
		return nil, nil
	}
	id, err := s.VMs.Identities.Get(ctx, vmID)
	if errors.Is(err, store.ErrNotFound) || err == nil && id.Value.Gone {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	it, err := s.VMs.VMs.Get(ctx, id.Value.VM)
	if errors.Is(err, store.ErrNotFound) || err == nil && (it.Value.Host != host || it.Value.VMID != vmID) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &it, nil
}

// status writes what a host says of one of its VMs, when it has changed. What it says of others is passed over:
// the next snapshot tells it that they are none of its own.
func (s *Service) status(ctx context.Context, host string, seen api.VMStatus) error {
	for {
		it, err := s.find(ctx, host, seen.VMID)
		if err != nil || it == nil {
			return err
		}
		now := vm.Status{VM: it.ID, Host: host, Seen: seen}
		old, err := s.VMs.Statuses.Get(ctx, seen.VMID)
		if errors.Is(err, store.ErrNotFound) {
			old = store.Item[vm.Status]{ID: seen.VMID}
		} else if err != nil {
			return err
		} else if reflect.DeepEqual(old.Value, now) {
			return nil
		}
		old.Value = now
		tx := s.DB.Txn()
		s.VMs.VMs.UnchangedIn(tx, *it) // no status for a VM that has just gone
		s.VMs.Statuses.UpdateIn(tx, old)
		if err := tx.Commit(ctx); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return err
		}
		afterStatus.Hit()
		return nil
	}
}

func (s *Service) identity(name string, r *http.Request) (any, error) {
	var in api.IdentityRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Audience == "" {
		return nil, evidence.Refuse(evidence.CodeParse, "audience", "empty", "the service the token is for")
	}
	it, err := s.find(r.Context(), name, r.PathValue("vmid"))
	if err != nil {
		return nil, err
	}
	if it == nil || it.Value.Deleting {
		return nil, evidence.Refuse(evidence.CodeAuthz, "vm", r.PathValue("vmid"), "a VM on this host that is not being deleted")
	}
	token, err := s.MintVM(it.Value.VMID, it.Value.Meta.ID.String(), in.Audience)
	if err != nil {
		return nil, fmt.Errorf("minting a VM's token: %w", err)
	}
	return api.IdentityResponse{Token: token}, nil
}

func (s *Service) answer(name string, r *http.Request) (any, error) {
	var in api.Answer
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return nil, s.VMs.Answered(r.Context(), name, r.PathValue("vmid"), r.PathValue("id"), in)
}
