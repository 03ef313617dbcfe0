// Package operations keeps what takes longer than one call: clients get a URL at once, and poll it.
package operations

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/store"
)

// The states of an operation.
const (
	InProgress = "InProgress"
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	Canceled   = "Canceled"
)

// Operation is one long call.
type Operation struct {
	ID           string     `json:"id"`
	Subscription string     `json:"subscription"`
	Resource     string     `json:"resource"` // id of what it works on
	Status       string     `json:"status"`
	Start        time.Time  `json:"start"`
	End          *time.Time `json:"end,omitempty"`
	Error        *arm.Error `json:"error,omitempty"`
}

// Service keeps operations.
type Service struct {
	Store    store.Store[Operation]
	Endpoint string // outer URL of the API without a final slash; never taken from a request
	Location string
	Now      func() time.Time
	// Authorize tells whether a caller may do an action at a scope. Who may read what an operation works on may poll it.
	Authorize func(p *identity.Principal, action, scope string) error
	Log       *slog.Logger
}

// New makes an operation; the caller writes it in the transaction of what it belongs to.
func (s *Service) New(sub, resource string) Operation {
	return Operation{ID: uuid.NewString(), Subscription: sub, Resource: resource, Status: InProgress, Start: s.Now().UTC()}
}

// FinishIn ends an operation in a transaction, with the change that ends it: were they two
// writes, a crash in between would leave it open for ever. The first end counts; one that is gone is nothing.
func (s *Service) FinishIn(ctx context.Context, tx *store.Txn, id string, status string, failure *arm.Error) error {
	it, err := s.Store.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if it.Value.Status == InProgress {
		end := s.Now().UTC()
		it.Value.Status, it.Value.End, it.Value.Error = status, &end, failure
		s.Store.UpdateIn(tx, it)
	}
	return nil
}

// Header points to an operation. The api-version is that of the call which began it.
func (s *Service) Header(o Operation, version string) http.Header {
	url := s.Endpoint + "/subscriptions/" + o.Subscription + "/providers/Microsoft.Compute/locations/" + s.Location + "/operations/" + o.ID + "?api-version=" + version
	return http.Header{
		"Azure-Asyncoperation": {url},
		"Location":             {url + "&monitor=true"},
		"Retry-After":          {"1"},
	}
}

// Routes are the URLs that Header gives.
func (s *Service) Routes() []arm.Route {
	return []arm.Route{{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/providers/Microsoft.Compute/locations/{location}/operations/{op}",
		Handle: s.get}} // no action: the role is asked for at the operation's own resource
}

func (s *Service) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.Store.Get(ctx, r.Var("op"))
	if errors.Is(err, store.ErrNotFound) || err == nil && arm.Key(it.Value.Subscription) != arm.Key(r.Var("sub")) {
		return nil, arm.Errorf(http.StatusNotFound, "NotFound", "Operation '%s' was not found.", r.Var("op"))
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayPoll(r.Principal, it.Value); err != nil {
		return nil, err
	}
	o := it.Value
	wait := http.Header{"Retry-After": {"1"}}
	if r.Query.Get("monitor") == "true" {
		switch o.Status {
		case InProgress:
			h := s.Header(o, r.Version)
			h.Del("Azure-Asyncoperation")
			return &arm.Response{Status: http.StatusAccepted, Header: h}, nil
		case Failed, Canceled:
			if o.Error == nil {
				return nil, arm.Errorf(http.StatusConflict, "OperationFailed", "The operation ended as %s, without a reason.", o.Status)
			}
			e := *o.Error
			e.Status = http.StatusConflict // the poll of a failed operation; not one of those that are repeated
			return nil, &e
		}
		return arm.NoContent(), nil
	}
	body := map[string]any{"name": o.ID, "status": o.Status, "startTime": o.Start}
	if o.End != nil {
		body["endTime"] = *o.End
		wait = nil
	}
	if o.Error != nil {
		body["error"] = o.Error
	}
	return &arm.Response{Status: http.StatusOK, Header: wait, Body: body}, nil
}

// mayPoll answers somebody without a role as if there were no such operation.
func (s *Service) mayPoll(p *identity.Principal, o Operation) error {
	if s.Authorize(p, readAction(o.Resource), o.Resource) != nil {
		return arm.Errorf(http.StatusNotFound, "NotFound", "Operation '%s' was not found.", o.ID)
	}
	return nil
}

// readAction is the action of reading a resource, by its id: of a resource group, or of the last type in the path.
func readAction(id string) string {
	_, path, ok := strings.Cut(strings.ToLower(id), "/providers/")
	if !ok {
		return "Microsoft.Resources/subscriptions/resourceGroups/read"
	}
	parts := strings.Split(path, "/")
	action := parts[0]
	for i := 1; i < len(parts); i += 2 {
		action += "/" + parts[i]
	}
	return action + "/read"
}
