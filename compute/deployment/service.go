package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/template"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

var (
	afterWritten  = failpoint.New("compute/deployment-written")
	afterBegun    = failpoint.New("compute/deployment-step-begun")
	afterStep     = failpoint.New("compute/deployment-step-done")
	afterFinished = failpoint.New("compute/deployment-finished")
	afterDeleted  = failpoint.New("compute/deployment-deleted")
)

// Service keeps deployments and goes on with them.
type Service struct {
	DB         *store.DB
	Store      store.Store[Deployment]
	Sources    store.Store[Source]
	Owners     store.Store[time.Time] // servers that run, under a lease
	Groups     *resources.Groups
	Operations *operations.Service
	Router     *arm.Router // that serves the resources; set before the first call
	Endpoint   string      // outer URL of the API
	TenantID   string
	// Environment is what templates get from environment().
	Environment map[string]any
	Now         func() time.Time
	Log         *slog.Logger

	name   string // of this server among the owners
	listed atomic.Bool
	mu     sync.Mutex
	live   map[string]*live // by run
	weight int64            // of all plans in live
}

// live is what a server has of a deployment in memory.
type live struct {
	plan *template.Plan // where the deployment was taken over: without the values of secure parameters
}

// Init must be called once.
func (s *Service) Init() {
	s.name, s.live = uuid.NewString(), map[string]*live{}
}

// Routes of deployments in resource groups.
func (s *Service) Routes() []arm.Route {
	const all = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type
	const one = all + "/{name}"
	const short = "/subscriptions/{sub}/resourceGroups/{group}/deployments/{name}" // where Azure has the operations
	return []arm.Route{
		{Method: http.MethodPut, Pattern: one, Action: Type + "/write", Handle: s.put},
		{Method: http.MethodGet, Pattern: one, Action: Type + "/read", Handle: s.get},
		{Method: http.MethodHead, Pattern: one, Action: Type + "/read", Handle: s.head},
		{Method: http.MethodDelete, Pattern: one, Action: Type + "/delete", Handle: s.delete},
		{Method: http.MethodGet, Pattern: all, Action: Type + "/read", Handle: s.list},
		{Method: http.MethodPost, Pattern: one + "/validate", Action: Type + "/validate/action", Handle: s.validate},
		{Method: http.MethodPost, Pattern: one + "/cancel", Action: Type + "/cancel/action", Handle: s.cancel},
		{Method: http.MethodPost, Pattern: one + "/exportTemplate", Action: Type + "/exportTemplate/action", Handle: s.export},
		{Method: http.MethodGet, Pattern: short + "/operations", Action: Type + "/operations/read", Handle: s.operations},
		{Method: http.MethodGet, Pattern: short + "/operations/{op}", Action: Type + "/operations/read", Handle: s.operation},
		{Method: http.MethodGet, Pattern: one + "/operations", Action: Type + "/operations/read", Handle: s.operations},
		{Method: http.MethodGet, Pattern: one + "/operations/{op}", Action: Type + "/operations/read", Handle: s.operation},
		{Method: http.MethodGet, Pattern: one + "/operationStatuses/{op}", Action: Type + "/operationstatuses/read", Handle: s.status},
	}
}

func idOf(r *arm.Request) arm.ID {
	return arm.ID{Subscription: r.Var("sub"), Group: r.Var("group"), Type: Type, Name: r.Var("name")}
}

func notFound(name string) *arm.Error {
	return arm.Errorf(http.StatusNotFound, "DeploymentNotFound", "Deployment '%s' could not be found.", name)
}

func (s *Service) find(ctx context.Context, r *arm.Request) (store.Item[Deployment], error) {
	it, err := s.Store.Get(ctx, idOf(r).Key())
	if !errors.Is(err, store.ErrNotFound) {
		return it, err
	}
	if err := s.Groups.Require(ctx, nil, r.Var("sub"), r.Var("group")); err != nil {
		return it, err
	}
	return it, notFound(r.Var("name"))
}

// prepare does all that PUT and validate have in common: it reads, expands, and asks whether the caller may.
func (s *Service) prepare(ctx context.Context, r *arm.Request, tx *store.Txn) (request, *template.Plan, Deployment, Source, error) {
	var d Deployment
	var src Source
	id := idOf(r)
	if len(id.Name) > 64 {
		return request{}, nil, d, src, arm.Errorf(http.StatusBadRequest, "InvalidResourceName", "Deployment name %q is invalid: want 1 to 64 characters.", id.Name)
	}
	req, err := read(r.Body)
	if err != nil {
		return req, nil, d, src, err
	}
	if err := tracked.CheckTags(req.tags); err != nil {
		return req, nil, d, src, err
	}
	if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
		return req, nil, d, src, err
	}
	group, err := s.Groups.Store.Get(ctx, arm.Key(id.GroupID()))
	if err != nil {
		return req, nil, d, src, err
	}
	id.Group = group.Value.Name
	src = Source{Location: group.Value.Location, Tags: group.Value.Tags, Template: template.JSON(req.template.Public())}
	plan, err := template.Expand(req.template, template.Inputs{Parameters: req.values, Scope: s.scope(id, src)})
	if err != nil {
		return req, nil, d, src, invalidTemplate(err)
	}
	src.Parameters = template.JSON(plan.Kept())
	if n := len(src.Template) + len(src.Parameters); n > maxSource {
		return req, nil, d, src, arm.Errorf(http.StatusBadRequest, "InvalidRequestContent", "Template and parameters have %d bytes; at most %d.", n, maxSource).At("properties.template")
	}
	now := s.Now().UTC()
	d = Deployment{ID: id, Run: uuid.NewString(), Owner: s.name, Principal: *r.Principal, Correlation: uuid.NewString(), Tags: req.tags, State: running, Start: now,
		Hash: hashOf(src.Template), Parameters: plan.Parameters(), Steps: planned(plan, uuid.NewString)}
	return req, plan, d, src, s.permitted(ctx, r.Principal, d)
}

func (s *Service) scope(id arm.ID, src Source) template.Scope {
	return template.Scope{Subscription: id.Subscription, TenantID: s.TenantID, Group: id.Group, Location: src.Location, Tags: src.Tags, Deployment: id.Name,
		Environment: s.Environment, Now: s.Now, NewGUID: uuid.NewString}
}

// permitted asks of each resource whether there is such a type, and whether the caller may write it. Each is asked again
// when its time comes.
func (s *Service) permitted(ctx context.Context, p *identity.Principal, d Deployment) error {
	var forbidden []string
	var details []arm.Detail
	for _, st := range d.Steps {
		if st.State == skipped {
			continue
		}
		err := s.Router.Check(ctx, p, http.MethodPut, st.ID, st.Version)
		e := arm.AsError(err)
		switch {
		case err == nil:
		case e == nil:
			return err
		case e.Status == http.StatusForbidden:
			forbidden = append(forbidden, fmt.Sprintf("Authorization failed for template resource '%s' of type '%s'. The client '%s' with object id '%s' does not have permission to perform action '%s/write' at scope '%s'.",
				st.Name, st.Type, p.ClientID, p.ObjectID, st.Type, st.ID))
		default:
			details = append(details, arm.Detail{Code: e.Code, Message: e.Message, Target: st.ID})
		}
	}
	switch {
	case len(forbidden) == 1:
		return arm.Errorf(http.StatusForbidden, "InvalidTemplateDeployment", "The template deployment failed with error: '%s'.", forbidden[0])
	case len(forbidden) > 1:
		return arm.Errorf(http.StatusForbidden, "InvalidTemplateDeployment", "The template deployment failed with multiple errors: '%s'.", strings.Join(forbidden, ":"))
	case len(details) > 0:
		e := arm.Errorf(http.StatusBadRequest, "InvalidTemplateDeployment", "The template deployment '%s' is not valid according to the validation procedure. The tracking id is '%s'. See inner errors for details.", d.ID.Name, d.Correlation)
		e.Details = details
		return e
	}
	return nil
}

func (s *Service) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	tx := s.DB.Txn()
	_, plan, d, src, err := s.prepare(ctx, r, tx)
	if err != nil {
		return nil, err
	}
	status := http.StatusOK
	it, err := s.Store.Get(ctx, d.ID.Key())
	switch {
	case errors.Is(err, store.ErrNotFound):
		status = http.StatusCreated
		it = store.Item[Deployment]{ID: d.ID.Key()}
		if err := s.makeRoom(ctx, d.ID); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !it.Value.over():
		return nil, active(it.Value)
	}
	if !s.listed.Load() {
		if err := s.enlist(ctx); err != nil {
			return nil, err
		}
	}
	op := s.Operations.New(d.ID.Subscription, d.ID.Key())
	d.Operation = op.ID
	it.Value = d
	s.Store.UpdateIn(tx, it)
	s.Sources.PutIn(tx, d.ID.Key(), src)
	s.Operations.Store.CreateIn(tx, op.ID, op)
	if err := s.keep(d, &live{plan: plan}); err != nil {
		return nil, err
	}
	if err := tx.Commit(ctx); err != nil {
		s.drop(d)
		return nil, err
	}
	afterWritten.Hit()
	wire := d.wire(s.Now())
	wire["properties"].(map[string]any)["provisioningState"] = "Accepted" // wire made it
	return &arm.Response{Status: status, Header: s.header(d, r.Version), Body: wire}, nil
}

// maxKept is how many deployments a resource group keeps, as in Azure.
const maxKept = 800

// makeRoom forgets the oldest deployments of a full group, as Azure does: az makes a new one for each VM.
func (s *Service) makeRoom(ctx context.Context, id arm.ID) error {
	items, _, err := s.Store.List(ctx, tracked.Prefix(id.Subscription, id.Group, Type))
	if err != nil {
		return err
	}
	slices.SortFunc(items, func(a, b store.Item[Deployment]) int { return a.Value.Start.Compare(b.Value.Start) })
	left := len(items)
	for _, it := range items {
		if left < maxKept {
			return nil
		}
		if it.Value.over() {
			if err := s.remove(ctx, it); err != nil && !errors.Is(err, store.ErrConflict) { // a conflict: another call forgot it
				return err
			}
			left--
		}
	}
	if left < maxKept {
		return nil
	}
	return arm.Errorf(http.StatusConflict, "DeploymentQuotaExceeded", "Creating the deployment '%s' would exceed the quota of '%d'. The current deployment count is '%d', please delete some deployments before creating a new one.", id.Name, maxKept, left)
}

func active(d Deployment) error {
	return arm.Errorf(http.StatusConflict, "DeploymentActive", "Unable to edit or replace deployment '%s': previous deployment from '%s' is still active. Please see https://aka.ms/arm-deploy for usage details.",
		d.ID.Name, d.Start.Format("1/2/2006 3:04:05 PM"))
}

func (s *Service) header(d Deployment, version string) http.Header {
	return http.Header{"Azure-Asyncoperation": {s.Endpoint + d.ID.String() + "/operationStatuses/" + d.Operation + "?api-version=" + version}, "Retry-After": {"1"}}
}

func (s *Service) validate(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	_, _, d, _, err := s.prepare(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	d.State, d.End = succeeded, d.Start
	wire := d.wire(d.Start)
	p := wire["properties"].(map[string]any) // wire made it
	delete(p, "outputs")
	delete(p, "outputResources")
	p["validatedResources"] = idsOf(d.Steps, pending)
	return arm.OK(wire), nil
}

func (s *Service) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return arm.OK(it.Value.wire(s.Now())), nil
}

func (s *Service) head(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := s.find(ctx, r); err != nil {
		return nil, err
	}
	return arm.NoContent(), nil
}

func (s *Service) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if err := s.Groups.Require(ctx, nil, r.Var("sub"), r.Var("group")); err != nil {
		return nil, err
	}
	want := ""
	if f := r.Query.Get("$filter"); f != "" {
		name, value, ok := strings.Cut(f, " eq ")
		if want = strings.Trim(strings.TrimSpace(value), "'"); !ok || !strings.EqualFold(strings.TrimSpace(name), "provisioningState") || want == "" {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidFilterInQueryString", "Filter %q is not supported: want provisioningState eq 'Failed'.", f).At("$filter")
		}
	}
	items, _, err := s.Store.List(ctx, tracked.Prefix(r.Var("sub"), r.Var("group"), Type))
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, it := range items {
		if want == "" || strings.EqualFold(want, it.Value.State) {
			out = append(out, it.Value.wire(s.Now()))
		}
	}
	return arm.OK(arm.Page(out)), nil
}

// delete forgets a deployment; what it made stays.
func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.find(ctx, r)
	if e := arm.AsError(err); e != nil && e.Code == "DeploymentNotFound" {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	if !it.Value.over() {
		return nil, active(it.Value)
	}
	if err := s.remove(ctx, it); err != nil {
		return nil, err
	}
	return arm.NoContent(), nil
}

func (s *Service) remove(ctx context.Context, it store.Item[Deployment]) error {
	tx := s.DB.Txn()
	s.Store.DeleteIn(tx, it)
	src, err := s.Sources.Get(ctx, it.ID)
	if err == nil {
		s.Sources.DeleteIn(tx, src)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := s.Operations.FinishIn(ctx, tx, it.Value.Operation, operations.Canceled, arm.Errorf(http.StatusConflict, "DeploymentNotFound", "The deployment was deleted.")); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	afterDeleted.Hit()
	s.drop(it.Value)
	return nil
}

// cancel begins no more resources; those under way go on.
func (s *Service) cancel(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	for {
		it, err := s.find(ctx, r)
		if err != nil {
			return nil, err
		}
		if it.Value.over() {
			return nil, arm.Errorf(http.StatusConflict, "Conflict", "Deployment '%s' can't be canceled: its provisioning state is '%s'.", it.Value.ID.Name, it.Value.State)
		}
		err = s.finish(ctx, it, canceled, operations.Canceled, arm.Errorf(http.StatusConflict, "DeploymentCanceled", "The deployment was canceled."))
		if errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		return arm.NoContent(), nil
	}
}

// finish ends a deployment and its operation.
func (s *Service) finish(ctx context.Context, it store.Item[Deployment], state, operation string, failure *arm.Error) error {
	d := &it.Value
	d.State, d.End, d.Error = state, s.Now().UTC(), failure
	for i := range d.Steps {
		if state == canceled && d.Steps[i].State == running {
			d.Steps[i].State, d.Steps[i].End = canceled, d.End
		}
	}
	tx := s.DB.Txn()
	s.Store.UpdateIn(tx, it)
	if err := s.Operations.FinishIn(ctx, tx, d.Operation, operation, failure); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	afterFinished.Hit()
	s.drop(*d)
	return nil
}

func (s *Service) export(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	src, err := s.Sources.Get(ctx, it.ID)
	if err != nil {
		return nil, err
	}
	return arm.OK(map[string]any{"template": src.Value.Template}), nil
}

func (s *Service) operations(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, st := range it.Value.Steps {
		if st.begun() {
			out = append(out, it.Value.wireStep(st, s.Now()))
		}
	}
	return arm.OK(arm.Page(out)), nil
}

func (st Step) begun() bool { return st.State != pending && st.State != skipped }

func (s *Service) operation(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, st := range it.Value.Steps {
		if st.begun() && strings.EqualFold(st.Operation, r.Var("op")) {
			return arm.OK(it.Value.wireStep(st, s.Now())), nil
		}
	}
	return nil, arm.Errorf(http.StatusNotFound, "NotFound", "Deployment '%s' has no operation '%s'.", r.Var("name"), r.Var("op"))
}

func (s *Service) status(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.Operations.Store.Get(ctx, r.Var("op"))
	if errors.Is(err, store.ErrNotFound) || err == nil && it.Value.Resource != idOf(r).Key() {
		return nil, arm.Errorf(http.StatusNotFound, "NotFound", "Operation '%s' was not found.", r.Var("op"))
	} else if err != nil {
		return nil, err
	}
	o := it.Value
	if o.Status == operations.InProgress {
		return &arm.Response{Status: http.StatusOK, Header: http.Header{"Retry-After": {"1"}}, Body: map[string]any{"status": running}}, nil
	}
	body := map[string]any{"status": o.Status}
	if o.Error != nil {
		body["error"] = o.Error
	}
	return arm.OK(body), nil
}

// Resources lists nothing: deployments are no content of a group.
func (s *Service) Resources(context.Context, string, string) ([]tracked.Meta, error) { return nil, nil }

// Clear ends and forgets all deployments of a group.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	items, _, err := s.Store.List(ctx, tracked.Prefix(sub, group, Type))
	if err != nil {
		return err
	}
	for _, it := range items {
		if err := s.remove(ctx, it); err != nil {
			return err
		}
	}
	return nil
}
