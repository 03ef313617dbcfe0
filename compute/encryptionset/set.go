// Package encryptionset keeps disk encryption sets: which of a tenant's keys the guest state, and so the disk, of
// confidential VMs is under. A set holds no key and can use none. It names one, and has an identity to which the
// tenant gives, or takes away, a role on that key at the key keeper.
package encryptionset

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

// Type is the resource type; Customer the only kind of set there is here.
const (
	Type     = "Microsoft.Compute/diskEncryptionSets"
	Customer = "ConfidentialVmEncryptedWithCustomerKey"
)

var afterSet = failpoint.New("compute/encryption-set-written")

// Set is a disk encryption set.
type Set struct {
	Meta      tracked.Meta `json:"meta"`
	Principal string       `json:"principal"` // object id of the set's identity; made once
	KeyURL    string       `json:"keyUrl"`    // with a version, or without one where new versions are followed
	VaultID   string       `json:"vaultId,omitempty"`
	Latest    bool         `json:"latest"` // new versions are followed
	Changed   time.Time    `json:"changed"`
	// Users are the keys of the VMs that use the set.
	Users map[string]bool `json:"users,omitempty"`
}

// Service serves them.
type Service struct {
	DB       *store.DB
	Store    store.Store[Set]
	Groups   *resources.Groups
	Location string
	TenantID string
	// VaultSuffix is what the names of the key keeper's vaults end in, with its port. Keys elsewhere can't be used by it.
	VaultSuffix string
	Now         func() time.Time
}

func (s *Service) kind() tracked.Kind[Set] {
	return tracked.Kind[Set]{Type: Type, Store: s.Store, Meta: func(v *Set) *tracked.Meta { return &v.Meta },
		Render: func(_ context.Context, v Set, _ *arm.Request) (any, error) { return s.wire(v), nil }}
}

// Routes of the kind.
func (s *Service) Routes() []arm.Route {
	const one = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type + "/{name}"
	return append(s.kind().Routes(),
		arm.Route{Method: http.MethodPut, Pattern: one, Action: Type + "/write", Handle: s.put},
		arm.Route{Method: http.MethodPatch, Pattern: one, Action: Type + "/write", Handle: s.patch},
		arm.Route{Method: http.MethodDelete, Pattern: one, Action: Type + "/delete", Handle: s.delete},
		arm.Route{Method: http.MethodGet, Pattern: one + "/associatedResources", Action: Type + "/read", Handle: s.associated})
}

func (s *Service) wire(v Set) any {
	key := map[string]any{"keyUrl": v.KeyURL}
	if v.VaultID != "" {
		key["sourceVault"] = map[string]any{"id": v.VaultID}
	}
	out := v.Meta.Wire(map[string]any{"provisioningState": "Succeeded", "encryptionType": Customer, "activeKey": key, "previousKeys": []any{},
		"rotationToLatestKeyVersionEnabled": v.Latest, "lastKeyRotationTimestamp": v.Changed})
	out["identity"] = map[string]any{"type": "SystemAssigned", "principalId": v.Principal, "tenantId": s.TenantID}
	return out
}

var keyShape = arm.Object(arm.Shape{"keyUrl": arm.Text, "sourceVault": arm.Object(arm.Shape{"id": arm.Text})})

var shape = arm.Shape{
	"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "systemData": arm.ReadOnly, "location": arm.Text, "tags": arm.Free,
	"identity": arm.Object(arm.Shape{"type": arm.OneOf("SystemAssigned"), "principalId": arm.ReadOnly, "tenantId": arm.ReadOnly}),
	"properties": arm.Object(arm.Shape{"provisioningState": arm.ReadOnly, "previousKeys": arm.ReadOnly, "lastKeyRotationTimestamp": arm.ReadOnly, "autoKeyRotationError": arm.ReadOnly,
		"encryptionType": arm.OneOf(Customer, "EncryptionAtRestWithCustomerKey", "EncryptionAtRestWithPlatformAndCustomerKeys"), "rotationToLatestKeyVersionEnabled": arm.Flag, "activeKey": keyShape}),
}

type body struct {
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
	Identity struct {
		Type string `json:"type"`
	} `json:"identity"`
	Properties struct {
		EncryptionType string `json:"encryptionType"`
		Latest         *bool  `json:"rotationToLatestKeyVersionEnabled"`
		ActiveKey      struct {
			KeyURL string `json:"keyUrl"`
			Vault  struct {
				ID string `json:"id"`
			} `json:"sourceVault"`
		} `json:"activeKey"`
	} `json:"properties"`
}

var keyPath = regexp.MustCompile(`^/keys/[0-9A-Za-z-]{1,127}(/[0-9a-f]{32})?$`)

// ours tells the URLs of vaults of this key keeper.
func (s *Service) ours(u *url.URL) bool {
	name, suffix, _ := strings.Cut(u.Host, ".")
	return strings.EqualFold(u.Scheme, "https") && name != "" && strings.EqualFold(suffix, s.VaultSuffix)
}

// key checks a key's URL. Which key it is, and whether it can be used, is for the key keeper to say.
func (s *Service) key(b body, latest bool) (string, []arm.Detail) {
	const target = "properties.activeKey.keyUrl"
	text := strings.TrimSuffix(b.Properties.ActiveKey.KeyURL, "/")
	u, err := url.Parse(text)
	switch {
	case text == "":
		return "", []arm.Detail{{Code: "InvalidParameter", Target: target, Message: "Required parameter 'activeKey.keyUrl' is missing (null)."}}
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !s.ours(u) || !keyPath.MatchString(u.Path):
		return "", []arm.Detail{{Code: "InvalidParameter", Target: target, Message: "keyUrl '" + text + "' is not a key of a vault here; want https://VAULT." + s.VaultSuffix + "/keys/NAME/VERSION."}}
	case strings.HasPrefix(strings.ToLower(u.Path), "/keys/gs-"):
		return "", []arm.Detail{{Code: "InvalidParameter", Target: target, Message: "keyUrl '" + text + "' is the key of one VM's guest state, not a customer's key."}}
	case strings.Count(u.Path, "/") == 2 && !latest:
		return "", []arm.Detail{{Code: "InvalidParameter", Target: target, Message: "keyUrl without a version needs rotationToLatestKeyVersionEnabled true."}}
	}
	return text, nil
}

func (s *Service) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	var problems []arm.Detail
	add := func(target, message string) {
		problems = append(problems, arm.Detail{Code: "InvalidParameter", Target: target, Message: message})
	}
	if err := arm.CheckLocation(b.Location, s.Location, Type); err != nil {
		problems = append(problems, err.Detail())
	}
	if b.Properties.EncryptionType != Customer {
		add("properties.encryptionType", "encryptionType '"+b.Properties.EncryptionType+"' is not supported here; want '"+Customer+"'. A set that is of the host's making protects nothing from the host.")
	}
	if b.Identity.Type != "SystemAssigned" {
		add("identity.type", "A disk encryption set needs an identity; want 'SystemAssigned'.")
	}
	latest := b.Properties.Latest != nil && *b.Properties.Latest
	key, bad := s.key(b, latest)
	if err := arm.Violations(http.StatusBadRequest, append(problems, bad...)); err != nil {
		return nil, err
	}
	set, _, err := s.kind().Write(ctx, s.DB, s.Groups, r, s.Now, func(v *Set, made bool) error {
		if made {
			v.Principal = uuid.NewString()
		}
		v.Meta.Location, v.Meta.Tags, v.VaultID = s.Location, b.Tags, b.Properties.ActiveKey.Vault.ID
		if v.KeyURL != key || v.Latest != latest {
			v.KeyURL, v.Latest, v.Changed = key, latest, s.Now().UTC()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	afterSet.Hit()
	return arm.OK(s.wire(set)), nil
}

// patch changes the key, the rotation or the tags. What is absent stays.
func (s *Service) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	if b.Properties.EncryptionType != "" && b.Properties.EncryptionType != Customer {
		return nil, arm.Errorf(http.StatusBadRequest, "PropertyChangeNotAllowed", "Changing property 'properties.encryptionType' is not allowed.").At("properties.encryptionType")
	}
	if _, err := s.kind().Find(ctx, r.ID()); err != nil {
		return nil, err
	}
	it, err := s.Store.Mutate(ctx, r.ID().Key(), func(v *Set) error {
		latest := v.Latest
		if b.Properties.Latest != nil {
			latest = *b.Properties.Latest
		}
		if b.Properties.ActiveKey.KeyURL == "" {
			b.Properties.ActiveKey.KeyURL = v.KeyURL
		}
		key, bad := s.key(b, latest)
		if err := arm.Violations(http.StatusBadRequest, bad); err != nil {
			return err
		}
		if v.KeyURL != key || v.Latest != latest {
			v.KeyURL, v.Latest, v.Changed = key, latest, s.Now().UTC()
		}
		if b.Tags != nil {
			v.Meta.Tags = b.Tags
		}
		v.Meta.Etag = tracked.NewEtag()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return arm.OK(s.wire(it.Value)), nil
}

func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.Store.Get(ctx, r.ID().Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	if len(it.Value.Users) > 0 {
		return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "Disk encryption set %s is used by %s.", it.Value.Meta.ID.Name, strings.Join(it.Value.users(), ", "))
	}
	if err := s.Store.Delete(ctx, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

func (v Set) users() []string {
	var out []string
	for u := range v.Users {
		out = append(out, u)
	}
	sort.Strings(out)
	return out
}

func (s *Service) associated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	id := r.ID()
	id.Type, id.Name = Type, r.Var("name")
	it, err := s.kind().Find(ctx, id)
	if err != nil {
		return nil, err
	}
	return arm.OK(arm.Page(it.Value.users())), nil
}

// UseIn notes in a transaction that a VM uses a set; LeaveIn, that it does so no more.
func (s *Service) UseIn(tx *store.Txn, it store.Item[Set], vm string) {
	users := map[string]bool{vm: true}
	for u := range it.Value.Users {
		users[u] = true
	}
	it.Value.Users = users
	s.Store.UpdateIn(tx, it)
}

// LeaveIn is the reverse of UseIn.
func (s *Service) LeaveIn(ctx context.Context, tx *store.Txn, set arm.ID, vm string) error {
	it, err := s.Store.Get(ctx, set.Key())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	users := map[string]bool{}
	for u := range it.Value.Users {
		if u != vm {
			users[u] = true
		}
	}
	it.Value.Users = users
	s.Store.UpdateIn(tx, it)
	return nil
}

// Resources lists the sets of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	return s.kind().Metas(ctx, sub, group)
}

// Clear removes the sets of a group that no VM uses.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	return s.kind().Clear(ctx, sub, group, func(v Set) bool { return len(v.Users) == 0 })
}
