// Package resources holds what is not of one provider: cloud metadata, subscriptions, locations, providers, and
// resource groups.
package resources

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

var (
	afterGroupDeleting = failpoint.New("compute/group-deleting")
	afterGroupGone     = failpoint.New("compute/group-gone")
)

// Group is a resource group.
type Group struct {
	Subscription string            `json:"subscription"`
	Name         string            `json:"name"`
	Location     string            `json:"location"`
	Tags         map[string]string `json:"tags,omitempty"`
	ManagedBy    string            `json:"managedBy,omitempty"`
	Deleting     string            `json:"deleting,omitempty"` // the operation that deletes it
}

// Content is a kind of resource that lies in groups.
type Content interface {
	// Resources lists what lies in a group of a subscription, or in all of them when group is "".
	Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error)
	// Clear does what can be done now towards an empty group; it is called until nothing is left.
	Clear(ctx context.Context, sub, group string) error
}

// Groups keeps resource groups.
type Groups struct {
	DB         *store.DB
	Store      store.Store[Group]
	Operations *operations.Service
	Location   string
	Now        func() time.Time
	Log        *slog.Logger
	Contents   []Content // in order of deletion: VMs first
}

const groupType = "Microsoft.Resources/subscriptions/resourceGroups"

// Require reads a group that something is about to be put into, and binds the transaction to it.
func (g *Groups) Require(ctx context.Context, tx *store.Txn, sub, group string) error {
	it, err := g.find(ctx, sub, group)
	if err != nil {
		return err
	}
	if it.Value.Deleting != "" {
		return arm.Errorf(http.StatusConflict, "ResourceGroupBeingDeleted", "The resource group '%s' is in deprovisioning state and cannot perform this operation.", group)
	}
	if tx != nil {
		g.Store.UnchangedIn(tx, it)
	}
	return nil
}

func (g *Groups) find(ctx context.Context, sub, group string) (store.Item[Group], error) {
	it, err := g.Store.Get(ctx, arm.Key(arm.GroupID(sub, group)))
	if errors.Is(err, store.ErrNotFound) {
		return it, arm.GroupNotFound(group)
	}
	return it, err
}

// Routes of groups and of the list of all resources.
func (g *Groups) Routes() []arm.Route {
	const one, all = "/subscriptions/{sub}/resourceGroups/{group}", "/subscriptions/{sub}/resourceGroups"
	return []arm.Route{
		{Method: http.MethodPut, Pattern: one, Action: groupType + "/write", Handle: g.put},
		{Method: http.MethodPatch, Pattern: one, Action: groupType + "/write", Handle: g.patch},
		{Method: http.MethodGet, Pattern: one, Action: groupType + "/read", Handle: g.get},
		{Method: http.MethodHead, Pattern: one, Action: groupType + "/read", Handle: g.head},
		{Method: http.MethodDelete, Pattern: one, Action: groupType + "/delete", Handle: g.delete},
		{Method: http.MethodGet, Pattern: all, Action: groupType + "/read", Handle: g.list},
		{Method: http.MethodGet, Pattern: one + "/resources", Action: "Microsoft.Resources/subscriptions/resources/read", Handle: g.resources},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/resources", Action: "Microsoft.Resources/subscriptions/resources/read", Handle: g.resources},
	}
}

func (v Group) wire() map[string]any {
	state := "Succeeded"
	if v.Deleting != "" {
		state = "Deleting"
	}
	out := map[string]any{"id": arm.GroupID(v.Subscription, v.Name), "name": v.Name, "type": "Microsoft.Resources/resourceGroups",
		"location": v.Location, "properties": map[string]any{"provisioningState": state}}
	if v.Tags != nil {
		out["tags"] = v.Tags
	}
	if v.ManagedBy != "" {
		out["managedBy"] = v.ManagedBy
	}
	return out
}

var groupShape = arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "location": arm.Text, "tags": arm.Free,
	"managedBy": arm.Text, "properties": arm.ReadOnly}

type groupBody struct {
	Location  string            `json:"location"`
	Tags      map[string]string `json:"tags"`
	ManagedBy string            `json:"managedBy"`
}

func (g *Groups) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body groupBody
	if err := arm.Decode(r.Body, groupShape, &body); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(body.Tags); err != nil {
		return nil, err
	}
	sub, name := r.Var("sub"), r.Var("group")
	if body.Location == "" {
		return nil, arm.Errorf(http.StatusBadRequest, "LocationRequired", "The location property is required for this definition.").At("location")
	}
	if arm.Location(body.Location) != g.Location {
		return nil, arm.Errorf(http.StatusBadRequest, "LocationNotAvailableForResourceGroup", "The provided location '%s' is not available for resource group. List of available regions is '%s'.", body.Location, g.Location).At("location")
	}
	it, err := g.find(ctx, sub, name)
	if e := arm.AsError(err); err != nil && (e == nil || e.Status != http.StatusNotFound) {
		return nil, err
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusCreated
		it = store.Item[Group]{ID: arm.Key(arm.GroupID(sub, name)), Value: Group{Subscription: sub, Name: name, Location: g.Location}}
	}
	if it.Value.Deleting != "" {
		return nil, arm.Errorf(http.StatusConflict, "ResourceGroupBeingDeleted", "The resource group '%s' is in deprovisioning state and cannot perform this operation.", name)
	}
	it.Value.Tags, it.Value.ManagedBy = body.Tags, body.ManagedBy
	if err := g.Store.Update(ctx, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: status, Body: it.Value.wire()}, nil
}

func (g *Groups) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body groupBody
	if err := arm.Decode(r.Body, groupShape, &body); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(body.Tags); err != nil {
		return nil, err
	}
	it, err := g.find(ctx, r.Var("sub"), r.Var("group"))
	if err != nil {
		return nil, err
	}
	if body.Tags != nil {
		it.Value.Tags = body.Tags
	}
	if err := g.Store.Update(ctx, it); err != nil {
		return nil, err
	}
	return arm.OK(it.Value.wire()), nil
}

func (g *Groups) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := g.find(ctx, r.Var("sub"), r.Var("group"))
	if err != nil {
		return nil, err
	}
	return arm.OK(it.Value.wire()), nil
}

func (g *Groups) head(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := g.find(ctx, r.Var("sub"), r.Var("group")); err != nil {
		return nil, err
	}
	return arm.NoContent(), nil
}

func (g *Groups) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	items, _, err := g.Store.List(ctx, strings.ToLower("/subscriptions/"+r.Var("sub")+"/"))
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, it := range items {
		out = append(out, it.Value.wire())
	}
	return arm.OK(arm.Page(out)), nil
}

func (g *Groups) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := g.find(ctx, r.Var("sub"), r.Var("group"))
	if err != nil {
		return nil, err
	}
	op := g.Operations.New(it.Value.Subscription, it.ID)
	if it.Value.Deleting != "" {
		op.ID = it.Value.Deleting
	} else {
		it.Value.Deleting = op.ID
		tx := g.DB.Txn()
		g.Store.UpdateIn(tx, it)
		g.Operations.Store.CreateIn(tx, op.ID, op)
		if err := tx.Commit(ctx); err != nil {
			return nil, err
		}
		afterGroupDeleting.Hit()
	}
	h := g.Operations.Header(op, r.Version)
	h.Del("Azure-Asyncoperation") // Azure gives only the Location here
	return &arm.Response{Status: http.StatusAccepted, Header: h}, nil
}

// Step brings all groups that are being deleted one step on. It is called when something changes, and now and then.
func (g *Groups) Step(ctx context.Context) error {
	items, _, err := g.Store.List(ctx, "")
	if err != nil {
		return err
	}
	var failed []error
	for _, it := range items {
		if it.Value.Deleting != "" {
			failed = append(failed, g.clear(ctx, it))
		}
	}
	return errors.Join(failed...)
}

func (g *Groups) clear(ctx context.Context, it store.Item[Group]) error {
	for _, c := range g.Contents {
		if err := c.Clear(ctx, it.Value.Subscription, it.Value.Name); err != nil {
			return err
		}
		left, err := c.Resources(ctx, it.Value.Subscription, it.Value.Name)
		if err != nil || len(left) > 0 {
			return err // nil: it goes on when these are gone
		}
	}
	tx := g.DB.Txn()
	g.Store.DeleteIn(tx, it)
	if err := g.Operations.FinishIn(ctx, tx, it.Value.Deleting, operations.Succeeded, nil); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	afterGroupGone.Hit()
	return nil
}

func (g *Groups) resources(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	want := ""
	if f := r.Query.Get("$filter"); f != "" {
		var ok bool
		if want, ok = typeFilter(f); !ok {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidFilterInQueryString", "Filter %q is not supported: want resourceType eq 'Provider/type'.", f).At("$filter")
		}
	}
	out := []any{}
	for _, c := range g.Contents {
		metas, err := c.Resources(ctx, r.Var("sub"), r.Var("group"))
		if err != nil {
			return nil, err
		}
		for _, m := range metas {
			if want == "" || strings.EqualFold(want, m.ID.Type) {
				w := m.Wire(nil)
				delete(w, "properties")
				out = append(out, w)
			}
		}
	}
	return arm.OK(arm.Page(out)), nil
}

func typeFilter(f string) (string, bool) {
	f = strings.TrimSpace(f)
	name, value, ok := strings.Cut(f, " eq ")
	value = strings.TrimSpace(value)
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "resourceType") || len(value) < 2 || value[0] != '\'' || value[len(value)-1] != '\'' {
		return "", false
	}
	return value[1 : len(value)-1], true
}
