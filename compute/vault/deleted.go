package vault

import (
	"context"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	keys "cloister.dev/cloister/keys/client"
)

// Deleted vaults are the key keeper's alone: the control plane has forgotten them.

func noneDeleted(name string) error {
	return arm.Errorf(http.StatusNotFound, "DeletedVaultNotFound", "The specified deleted vault '%s' does not exist.", name)
}

// deleted finds a deleted vault of a sort.
func (s *Service) deleted(ctx context.Context, k sort, name string) (keys.Vault, error) {
	none := noneDeleted(name)
	v, err := s.Keeper.Get(ctx, strings.ToLower(name))
	if notFound(err) {
		return v, none
	}
	if err == nil && (v.Deleted == nil || v.Kind != k.keeperKind || !strings.EqualFold(v.TenantID, s.TenantID)) {
		err = none
	}
	return v, err
}

// in tells whether a vault was in a subscription.
func in(v keys.Vault, sub string) bool {
	return strings.HasPrefix(strings.ToLower(v.Resource), strings.ToLower("/subscriptions/"+sub+"/"))
}

func wireDeleted(v keys.Vault, sub string, k sort, location string) any {
	p := map[string]any{"location": location, "deletionDate": v.Deleted, "scheduledPurgeDate": v.PurgeAt, "tags": v.Tags}
	p[map[string]string{Type: "vaultId", PoolType: "mhsmId"}[k.resourceType]] = v.Resource
	if v.PurgeProtection {
		p["purgeProtectionEnabled"] = true
	}
	return map[string]any{"id": "/subscriptions/" + sub + "/providers/Microsoft.KeyVault/locations/" + location + "/" + k.deletedType + "/" + v.Name, "name": v.Name,
		"type": "Microsoft.KeyVault/" + k.deletedType, "properties": p}
}

func (s *Service) listDeleted(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	all, err := s.Keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, v := range all {
		if v.Deleted != nil && v.Kind == k.keeperKind && in(v, r.Var("sub")) && strings.EqualFold(v.TenantID, s.TenantID) {
			out = append(out, wireDeleted(v, r.Var("sub"), k, s.Location))
		}
	}
	return arm.OK(arm.Page(out)), nil
}

// find finds the deleted vault that a request's path names, in its subscription and location.
func (s *Service) find(ctx context.Context, r *arm.Request, k sort) (keys.Vault, error) {
	v, err := s.deleted(ctx, k, r.Var("name"))
	if err == nil && (!in(v, r.Var("sub")) || arm.Location(r.Var("location")) != s.Location) {
		err = noneDeleted(r.Var("name"))
	}
	return v, err
}

func (s *Service) getDeleted(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	v, err := s.find(ctx, r, k)
	if err != nil {
		return nil, err
	}
	return arm.OK(wireDeleted(v, r.Var("sub"), k, s.Location)), nil
}

func (s *Service) purge(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	v, err := s.find(ctx, r, k)
	if err != nil {
		return nil, err
	}
	if v.PurgeProtection {
		return nil, arm.Errorf(http.StatusMethodNotAllowed, "MethodNotAllowed", "Operation 'DeletedVaultPurge' is not allowed.")
	}
	if err := s.Keeper.Purge(ctx, onBehalf(r), v.Name); err != nil {
		return nil, err
	}
	if k.resourceType == PoolType {
		return s.ended(ctx, r, v)
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

// ended answers with an operation that is over: clients of pools take no other answer to a purge.
func (s *Service) ended(ctx context.Context, r *arm.Request, v keys.Vault) (*arm.Response, error) {
	op := s.Operations.New(r.Var("sub"), v.Resource)
	op.Status, op.End = operations.Succeeded, &op.Start
	if err := s.Operations.Store.Create(ctx, op.ID, op); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusAccepted, Header: s.Operations.Header(op, r.Version)}, nil
}

// nameIsFree answers whether a name can be used.
func (s *Service) nameIsFree(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	var b struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := arm.Decode(r.Body, arm.Shape{"name": arm.Text, "type": arm.OneOf(Type, PoolType)}, &b); err != nil {
		return nil, err
	}
	answer := func(free bool, reason, message string) (*arm.Response, error) {
		out := map[string]any{"nameAvailable": free}
		if !free {
			out["reason"], out["message"] = reason, message
		}
		return arm.OK(out), nil
	}
	if !keys.IsVaultName(strings.ToLower(b.Name)) {
		return answer(false, "AccountNameInvalid", "The vault name '"+b.Name+"' is invalid. A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens.")
	}
	_, err := s.Keeper.Get(ctx, strings.ToLower(b.Name))
	if notFound(err) {
		return answer(true, "", "")
	}
	if err != nil {
		return nil, err
	}
	return answer(false, "AlreadyExists", "The name '"+b.Name+"' is already in use.")
}
