// Package tracked holds what all resources in a group have in common: id, location, tags, etag, and the calls that
// read them or change their tags.
package tracked

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/store"
)

// Meta is the common part.
type Meta struct {
	ID       arm.ID            `json:"id"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
	Etag     string            `json:"etag"`
	Created  time.Time         `json:"created"`
}

// NewEtag gives the next etag.
func NewEtag() string { return uuid.NewString() }

// Wire is the common part of an answer.
func (m Meta) Wire(properties any) map[string]any {
	out := map[string]any{"id": m.ID.String(), "name": m.ID.Base(), "type": m.ID.Type, "location": m.Location, "properties": properties}
	if m.Tags != nil {
		out["tags"] = m.Tags
	}
	return out
}

// Kind serves one kind of resource.
type Kind[T any] struct {
	Type   string
	Store  store.Store[T]
	Meta   func(*T) *Meta
	Render func(context.Context, T, *arm.Request) (any, error)
}

// Routes are GET, both lists and PATCH of tags.
func (k Kind[T]) Routes() []arm.Route {
	group := "/subscriptions/{sub}/resourceGroups/{group}/providers/" + k.Type
	return []arm.Route{
		{Method: http.MethodGet, Pattern: group + "/{name}", Action: k.Type + "/read", Handle: k.get},
		{Method: http.MethodGet, Pattern: group, Action: k.Type + "/read", Handle: k.list},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/providers/" + k.Type, Action: k.Type + "/read", Handle: k.list},
	}
}

// TagsRoute is PATCH for kinds of which only the tags can be patched.
func (k Kind[T]) TagsRoute() arm.Route {
	return arm.Route{Method: http.MethodPatch, Pattern: "/subscriptions/{sub}/resourceGroups/{group}/providers/" + k.Type + "/{name}", Action: k.Type + "/write", Handle: k.patchTags}
}

// Find reads a resource, with a 404 in Resource Manager's form.
func (k Kind[T]) Find(ctx context.Context, id arm.ID) (store.Item[T], error) {
	it, err := k.Store.Get(ctx, id.Key())
	if errors.Is(err, store.ErrNotFound) {
		return it, arm.NotFound(id)
	}
	return it, err
}

func (k Kind[T]) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := k.Find(ctx, r.ID())
	if err != nil {
		return nil, err
	}
	body, err := k.Render(ctx, it.Value, r)
	if err != nil {
		return nil, err
	}
	return arm.OK(body), nil
}

// Prefix is the beginning of the store ids of all resources of a type in a group.
func Prefix(sub, group, kind string) string {
	return strings.ToLower(arm.GroupID(sub, group) + "/providers/" + kind + "/")
}

// All reads all resources of the kind in a subscription, or in one of its groups.
func (k Kind[T]) All(ctx context.Context, sub, group string) ([]store.Item[T], error) {
	prefix := strings.ToLower("/subscriptions/" + sub + "/")
	if group != "" {
		prefix = Prefix(sub, group, k.Type)
	}
	items, _, err := k.Store.List(ctx, prefix)
	return items, err
}

func (k Kind[T]) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	items, err := k.All(ctx, r.Var("sub"), r.Var("group"))
	if err != nil {
		return nil, err
	}
	out := make([]any, 0, len(items))
	for _, it := range items {
		body, err := k.Render(ctx, it.Value, r)
		if err != nil {
			return nil, err
		}
		out = append(out, body)
	}
	return arm.OK(arm.Page(out)), nil
}

func (k Kind[T]) patchTags(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body struct {
		Tags map[string]string `json:"tags"`
	}
	if err := arm.Decode(r.Body, arm.Shape{"tags": arm.Free}, &body); err != nil {
		return nil, err
	}
	if _, err := k.Find(ctx, r.ID()); err != nil {
		return nil, err
	}
	it, err := k.Store.Mutate(ctx, r.ID().Key(), func(v *T) error {
		m := k.Meta(v)
		m.Etag = NewEtag()
		if body.Tags != nil {
			m.Tags = body.Tags
		}
		return CheckTags(m.Tags)
	})
	if err != nil {
		return nil, err
	}
	out, err := k.Render(ctx, it.Value, r)
	if err != nil {
		return nil, err
	}
	return arm.OK(out), nil
}

// CheckTags applies Azure's limits: 50 tags, names to 512 and values to 256 characters.
func CheckTags(tags map[string]string) error {
	if len(tags) > 50 {
		return arm.Errorf(http.StatusBadRequest, "InvalidTags", "%d tags are given; at most 50.", len(tags)).At("tags")
	}
	for k, v := range tags {
		if k == "" || len(k) > 512 || len(v) > 256 || strings.ContainsAny(k, "<>%&\\?/") {
			return arm.Errorf(http.StatusBadRequest, "InvalidTagNameCharacters", "Tag %q is invalid: names have 1 to 512 characters without <>%%&\\?/, values at most 256.", k).At("tags")
		}
	}
	return nil
}

// Match honours If-Match and If-None-Match. etag is "" when the resource does not exist.
func Match(h http.Header, etag string) error {
	failed := arm.Errorf(http.StatusPreconditionFailed, "PreconditionFailed", "The resource has changed, or exists, or does not exist: a precondition of the request does not hold.")
	if m := h.Get("If-Match"); m != "" && (etag == "" || m != "*" && strings.Trim(m, `"`) != etag) {
		return failed
	}
	if m := h.Get("If-None-Match"); m != "" && etag != "" && (m == "*" || strings.Trim(m, `"`) == etag) {
		return failed
	}
	return nil
}
