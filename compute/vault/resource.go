package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/internal/failpoint"
	keys "cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/store"
)

// The resource types.
const (
	Type     = "Microsoft.KeyVault/vaults"
	PoolType = "Microsoft.KeyVault/managedHSMs"
)

var (
	afterRecord = failpoint.New("compute/vault-recorded")
	afterReady  = failpoint.New("compute/vault-ready")
)

// Vault is what the control plane keeps of a vault or a pool. The key keeper has the vault itself, and decides about it.
type Vault struct {
	Meta tracked.Meta `json:"meta"`
	// Keeper is the vault as the key keeper last answered. Before it did, Ready is false: a creation was cut short.
	Keeper keys.Vault `json:"keeper"`
	Ready  bool       `json:"ready"`
	Flags  flags      `json:"flags"`
}

// flags are what clients set and read again; they are about secrets, of which there are none here.
type flags struct {
	Deployment         bool `json:"deployment,omitempty"`
	DiskEncryption     bool `json:"diskEncryption,omitempty"`
	TemplateDeployment bool `json:"templateDeployment,omitempty"`
}

// Keeper is the key keeper's management of vaults.
type Keeper interface {
	Put(ctx context.Context, onBehalf string, v keys.Vault) (keys.Vault, error)
	Get(ctx context.Context, name string) (keys.Vault, error)
	List(ctx context.Context) ([]keys.Vault, error)
	Delete(ctx context.Context, name string) (keys.Vault, error)
	Recover(ctx context.Context, onBehalf, name string) (keys.Vault, error)
	Purge(ctx context.Context, onBehalf, name string) error
}

// Service serves vaults and pools. It passes its callers' tokens on to the key keeper, and gives no access to keys by itself.
type Service struct {
	DB         *store.DB
	Vaults     store.Store[Vault]
	Pools      store.Store[Vault]
	Groups     *resources.Groups
	Keeper     Keeper // nil: the installation's key keeper makes no vaults
	Operations *operations.Service
	Location   string
	TenantID   string
	Now        func() time.Time
}

// sort is one of the two types with what tells it from the other.
type sort struct {
	resourceType, keeperKind, deletedType, checkName string
	made                                             int // the status of a PUT that made one
	store                                            store.Store[Vault]
}

func (s *Service) sorts() []sort {
	return []sort{
		{Type, "vault", "deletedVaults", "checkNameAvailability", http.StatusCreated, s.Vaults},
		{PoolType, "pool", "deletedManagedHSMs", "checkMhsmNameAvailability", http.StatusOK, s.Pools},
	}
}

func (s *Service) kind(k sort) tracked.Kind[Vault] {
	return tracked.Kind[Vault]{Type: k.resourceType, Store: k.store, Meta: func(v *Vault) *tracked.Meta { return &v.Meta },
		Render: func(_ context.Context, v Vault, _ *arm.Request) (any, error) { return v.wire(), nil }}
}

// Routes of both types.
func (s *Service) Routes() []arm.Route {
	var out []arm.Route
	for _, k := range s.sorts() {
		one := "/subscriptions/{sub}/resourceGroups/{group}/providers/" + k.resourceType + "/{name}"
		provider := "/subscriptions/{sub}/providers/Microsoft.KeyVault/"
		deleted := provider + "locations/{location}/" + k.deletedType + "/{name}"
		out = append(out, s.kind(k).Routes()...)
		out = append(out,
			arm.Route{Method: http.MethodPut, Pattern: one, Action: k.resourceType + "/write", Handle: s.handler(k, s.put)},
			arm.Route{Method: http.MethodPatch, Pattern: one, Action: k.resourceType + "/write", Handle: s.handler(k, s.patch)},
			arm.Route{Method: http.MethodDelete, Pattern: one, Action: k.resourceType + "/delete", Handle: s.handler(k, s.delete)},
			arm.Route{Method: http.MethodGet, Pattern: provider + k.deletedType, Action: "Microsoft.KeyVault/" + k.deletedType + "/read", Handle: s.handler(k, s.listDeleted)},
			arm.Route{Method: http.MethodGet, Pattern: deleted, Action: "Microsoft.KeyVault/locations/" + k.deletedType + "/read", Handle: s.handler(k, s.getDeleted)},
			arm.Route{Method: http.MethodPost, Pattern: deleted + "/purge", Action: "Microsoft.KeyVault/locations/" + k.deletedType + "/purge/action", Handle: s.handler(k, s.purge)},
			arm.Route{Method: http.MethodPost, Pattern: provider + k.checkName, Action: "Microsoft.KeyVault/" + k.checkName + "/read", Handle: s.handler(k, s.nameIsFree)})
	}
	vaults := s.sorts()[0]
	return append(out, arm.Route{Method: http.MethodPut, Pattern: "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type + "/{name}/accessPolicies/{operation}",
		Action: Type + "/accessPolicies/write", Handle: s.handler(vaults, s.changePolicies)})
}

func (s *Service) handler(k sort, f func(context.Context, *arm.Request, sort) (*arm.Response, error)) arm.Handler {
	return func(ctx context.Context, r *arm.Request) (*arm.Response, error) {
		if err := s.managed(); err != nil {
			return nil, err
		}
		resp, err := f(ctx, r, k)
		return resp, failure(err)
	}
}

// managed refuses where the key keeper makes no vaults.
func (s *Service) managed() error {
	if s.Keeper == nil {
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "The key keeper of this installation makes no vaults: its configuration names them.")
	}
	return nil
}

// failure gives the key keeper's refusals in Resource Manager's form.
func failure(err error) error {
	var e *keys.VaultError
	if !errors.As(err, &e) {
		return err
	}
	code := e.Code()
	switch code {
	case "VaultAlreadyExists", "ConflictError", "MethodNotAllowed", "VaultNotFound":
	case "Forbidden", "Unauthorized":
		code = "AuthorizationFailed"
	case "BadParameter":
		code = "InvalidParameter"
	}
	return arm.Errorf(e.Status, code, "%s", e.Message())
}

// onBehalf is the caller's own token.
func onBehalf(r *arm.Request) string {
	_, token, _ := strings.Cut(r.HTTP.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token)
}

func notFound(err error) bool {
	var e *keys.VaultError
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

func (s *Service) put(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shapeOf(k), &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	id := r.ID()
	it, err := k.store.Get(ctx, id.Key())
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, err
	}
	if fresh && strings.EqualFold(b.Properties.CreateMode, "recover") {
		return s.recover(ctx, r, k)
	}
	ask, err := s.ask(id, k, b, it.Value, fresh)
	if err != nil {
		return nil, err
	}
	v := it.Value
	if fresh {
		v = Vault{Meta: tracked.Meta{ID: id, Location: s.Location, Created: s.Now().UTC()}}
	}
	v.Meta.Tags, v.Flags = b.Tags, b.Properties.flags(flags{})
	return s.write(ctx, r, k, v, func() (keys.Vault, error) { return s.Keeper.Put(ctx, onBehalf(r), ask) })
}

// write keeps the record, has the key keeper do its part, and keeps what it answered. A record that a crash left without an
// answer is completed by asking again, or deleted.
func (s *Service) write(ctx context.Context, r *arm.Request, k sort, v Vault, do func() (keys.Vault, error)) (*arm.Response, error) {
	id := v.Meta.ID
	tx := s.DB.Txn()
	if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
		return nil, err
	}
	it, err := k.store.Get(ctx, id.Key())
	fresh := errors.Is(err, store.ErrNotFound)
	if err != nil && !fresh {
		return nil, err
	}
	if err := tracked.Match(r.HTTP.Header, it.Value.Meta.Etag); err != nil {
		return nil, err
	}
	if fresh {
		v.Meta.Etag = tracked.NewEtag()
		k.store.CreateIn(tx, id.Key(), v)
		if err := tx.Commit(ctx); err != nil {
			return nil, err
		}
		afterRecord.Hit()
	}
	keeper, err := do()
	if err != nil {
		if fresh {
			err = errors.Join(err, s.forget(ctx, k, id))
		}
		return nil, err
	}
	out, err := k.store.Mutate(ctx, id.Key(), func(now *Vault) error {
		now.Keeper, now.Ready, now.Flags = keeper, true, v.Flags
		now.Meta.Tags, now.Meta.Etag = v.Meta.Tags, tracked.NewEtag()
		return nil
	})
	if err != nil {
		return nil, err
	}
	afterReady.Hit()
	status := http.StatusOK
	if fresh {
		status = k.made
	}
	return &arm.Response{Status: status, Body: out.Value.wire()}, nil
}

// forget takes a record out that the key keeper refused to make a vault for.
func (s *Service) forget(ctx context.Context, k sort, id arm.ID) error {
	it, err := k.store.Get(ctx, id.Key())
	if err != nil || it.Value.Ready {
		return err
	}
	return k.store.Delete(ctx, it)
}

// recover takes a deletion back: the record comes again from what the key keeper kept.
func (s *Service) recover(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	id := r.ID()
	gone, err := s.deleted(ctx, k, id.Base())
	if err != nil {
		return nil, err
	}
	was, err := arm.ParseID(gone.Resource, k.resourceType)
	if err != nil || was.Key() != id.Key() {
		return nil, arm.Errorf(http.StatusConflict, "ConflictError", "A deleted vault of this name was in another place: %s. It is recovered there.", gone.Resource)
	}
	v := Vault{Meta: tracked.Meta{ID: was, Location: s.Location, Tags: gone.Tags, Created: s.Now().UTC()}}
	if gone.Created != nil {
		v.Meta.Created = *gone.Created
	}
	return s.write(ctx, r, k, v, func() (keys.Vault, error) { return s.Keeper.Recover(ctx, onBehalf(r), strings.ToLower(id.Base())) })
}

func (s *Service) patch(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shapeOf(k), &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	it, err := s.kind(k).Find(ctx, r.ID())
	if err != nil {
		return nil, err
	}
	v := it.Value
	raw := b.over(v)
	ask, err := s.ask(v.Meta.ID, k, raw, v, false)
	if err != nil {
		return nil, err
	}
	v.Meta.Tags, v.Flags = raw.Tags, raw.Properties.flags(v.Flags)
	return s.write(ctx, r, k, v, func() (keys.Vault, error) { return s.Keeper.Put(ctx, onBehalf(r), ask) })
}

func (s *Service) delete(ctx context.Context, r *arm.Request, k sort) (*arm.Response, error) {
	it, err := k.store.Get(ctx, r.ID().Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	if err := tracked.Match(r.HTTP.Header, it.Value.Meta.Etag); err != nil {
		return nil, err
	}
	if err := s.remove(ctx, k, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

// remove deletes a vault at the key keeper, if it is this resource's, and then the record.
func (s *Service) remove(ctx context.Context, k sort, it store.Item[Vault]) error {
	if err := s.managed(); err != nil {
		return err
	}
	name := strings.ToLower(it.Value.Meta.ID.Base())
	v, err := s.Keeper.Get(ctx, name)
	switch {
	case notFound(err) || err == nil && !strings.EqualFold(v.Resource, it.Value.Meta.ID.String()):
	case err != nil:
		return err
	default:
		if _, err := s.Keeper.Delete(ctx, name); err != nil && !notFound(err) {
			return err
		}
	}
	return k.store.Delete(ctx, it)
}

// Resources lists the vaults and pools of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	var out []tracked.Meta
	for _, k := range s.sorts() {
		metas, err := s.kind(k).Metas(ctx, sub, group)
		if err != nil {
			return nil, err
		}
		out = append(out, metas...)
	}
	return out, nil
}

// Clear deletes the vaults and pools of a group. They can be recovered.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	for _, k := range s.sorts() {
		items, err := s.kind(k).All(ctx, sub, group)
		if err != nil {
			return err
		}
		for _, it := range items {
			if err := s.remove(ctx, k, it); err != nil {
				return err
			}
		}
	}
	return nil
}
