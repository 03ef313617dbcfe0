package vault

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/compute/arm"
	keys "cloister.dev/cloister/keys/client"
)

// changePolicies answers PUT …/accessPolicies/add, replace and remove: a change of some identities' permissions.
func (s *Service) changePolicies(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	var b struct {
		Properties struct {
			AccessPolicies []policyBody `json:"accessPolicies"`
		} `json:"properties"`
	}
	shape := arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "location": arm.ReadOnly, "properties": arm.Object(arm.Shape{"accessPolicies": arm.List(policyShape)})}
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	id := r.ID()
	id.Type, id.Name = Type, r.Var("name")
	it, err := s.kind(k).Find(ctx, id)
	if err != nil {
		return nil, err
	}
	v := it.Value
	if v.Keeper.Roles {
		return nil, arm.Errorf(http.StatusBadRequest, "BadRequest", "Vault '%s' gives access by roles: access policies count for nothing there.", v.Meta.ID.Name)
	}
	next, err := combined(policiesOf(v.Keeper), b.Properties.AccessPolicies, strings.ToLower(r.Var("operation")))
	if err != nil {
		return nil, err
	}
	ask, err := s.ask(v.Meta.ID, k, body{Location: v.Meta.Location, Tags: v.Meta.Tags, Properties: properties{TenantID: v.Keeper.TenantID, SKU: skuBody{Name: v.Keeper.SKU}, AccessPolicies: next}}, v, false)
	if err != nil {
		return nil, err
	}
	if _, err := s.write(ctx, r, k, v, func() (keys.Vault, error) { return s.Keeper.Put(ctx, onBehalf(r), ask) }); err != nil {
		return nil, err
	}
	return arm.OK(map[string]any{"id": v.Meta.ID.String() + "/accessPolicies/", "type": Type + "/accessPolicies", "properties": map[string]any{"accessPolicies": next}}), nil
}

// combined changes a list of access policies by another.
func combined(now, change []policyBody, operation string) ([]policyBody, error) {
	same := func(a, b policyBody) bool {
		return strings.EqualFold(a.ObjectID, b.ObjectID) && strings.EqualFold(a.ApplicationID, b.ApplicationID)
	}
	out := slices.Clone(now)
	for _, c := range change {
		i := slices.IndexFunc(out, func(p policyBody) bool { return same(p, c) })
		switch {
		case operation == "add" && i < 0, operation == "replace" && i < 0:
			out = append(out, c)
		case operation == "replace":
			out[i] = c
		case operation == "add":
			p := &out[i].Permissions
			p.Keys, p.Secrets = union(p.Keys, c.Permissions.Keys), union(p.Secrets, c.Permissions.Secrets)
			p.Certificates, p.Storage = union(p.Certificates, c.Permissions.Certificates), union(p.Storage, c.Permissions.Storage)
		case operation == "remove" && i >= 0:
			p := &out[i].Permissions
			p.Keys, p.Secrets = without(p.Keys, c.Permissions.Keys), without(p.Secrets, c.Permissions.Secrets)
			p.Certificates, p.Storage = without(p.Certificates, c.Permissions.Certificates), without(p.Storage, c.Permissions.Storage)
			if len(p.Keys)+len(p.Secrets)+len(p.Certificates)+len(p.Storage) == 0 {
				out = slices.Delete(out, i, i+1)
			}
		case operation == "remove":
		default:
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "The operation '%s' is not one of add, replace and remove.", operation).At("operationKind")
		}
	}
	return out, nil
}

func has(list []string, word string) bool {
	return slices.ContainsFunc(list, func(w string) bool { return strings.EqualFold(w, word) })
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, w := range b {
		if !has(out, w) {
			out = append(out, w)
		}
	}
	return out
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(w string) bool { return has(b, w) })
}
