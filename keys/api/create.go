package api

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/release"
	"cloister.dev/cloister/keys/vaults"
)

var afterCreate = failpoint.New("keys/key-created")

// maxTags is Key Vault's limit.
const maxTags = 15

var knownOps = map[string][]string{
	"RSA": {"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"},
	"EC":  {"sign", "verify"},
	"oct": {"encrypt", "decrypt", "wrapKey", "unwrapKey"},
}

// isGuestState tells guest-state keys by their name. Their rules are stricter than those of other keys.
func isGuestState(name string) bool { return gsNameForm.MatchString(strings.ToLower(name)) }

func (c *call) newVersionID() (string, error) {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

func (c *call) create(name string) (any, error) {
	if err := c.may("create/action", name); err != nil {
		return nil, err
	}
	var in createBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	if strings.HasPrefix(strings.ToLower(name), "gs-") && !gsNameForm.MatchString(name) {
		return nil, badParameter("names that begin with gs- are of guest-state keys: gs- and a VM's UUID in lower case")
	}
	if in.Kty == "RSA" || in.Kty == "RSA-HSM" {
		if in.KeySize == 0 {
			in.KeySize = 2048
		}
	}
	spec := keystore.Spec{Kty: in.Kty, Bits: in.KeySize, Crv: in.Crv}
	switch spec.Family() {
	case "EC":
		spec.Bits = 0
	case "oct":
		if spec.Bits == 0 {
			spec.Bits = 256
		}
	}
	if err := keystore.CheckSpec(spec); err != nil {
		return nil, err
	}
	if err := c.fits(name, spec); err != nil {
		return nil, err
	}
	v := keystore.Version{Spec: spec, Enabled: true, Tags: in.Tags}
	if err := c.apply(&v, in.KeyOps, in.Attributes, in.Tags); err != nil {
		return nil, err
	}
	policy, err := parsePolicy(in.ReleasePolicy)
	if err != nil {
		return nil, err
	}
	var exportable *bool
	if in.Attributes != nil {
		exportable = in.Attributes.Exportable
	}
	if isGuestState(name) {
		if spec.Family() != "oct" || spec.Bits != 256 || exportable == nil || !*exportable || policy == nil {
			return nil, badParameter("a guest-state key is oct-HSM of 256 bits, exportable, with a release policy")
		}
		v.Ops = []string{}
	}
	makeIt := c.generated(spec)
	if isGuestState(name) {
		customer, err := c.customerKeyOf(in.Tags)
		if err != nil {
			return nil, err
		}
		if customer != nil {
			makeIt = func(keystore.Address) (made, error) {
				under, err := c.underCustomerKey(*customer, strings.TrimPrefix(name, "gs-"))
				return made{customer: under}, err
			}
		}
	}
	return c.addVersion(name, v, exportable, policy, makeIt)
}

// made is what a version consists of: material, or for a guest-state key its place under a customer's key.
type made struct {
	material keystore.Material
	customer *keystore.CustomerKey
}

// generated makes material of a kind.
func (c *call) generated(spec keystore.Spec) func(keystore.Address) (made, error) {
	return func(at keystore.Address) (made, error) {
		m, err := c.Backend.Generate(c.req.Context(), at, spec)
		return made{material: m}, err
	}
}

// addVersion makes what a version consists of and adds it, to a new key or to one that is there.
func (c *call) addVersion(name string, v keystore.Version, exportable *bool, policy *keystore.Policy, makeIt func(keystore.Address) (made, error)) (any, error) {
	// A first look, so that no material is made for what will be refused.
	if k, err := c.Backend.Get(c.req.Context(), c.id(name)); err == nil {
		if _, err := c.withVersion(k, name, v, exportable, policy); err != nil {
			return nil, err
		}
	} else if _, err := c.withVersion(nil, name, v, exportable, policy); err != nil {
		return nil, err
	}
	var err error
	if v.ID, err = c.newVersionID(); err != nil {
		return nil, err
	}
	v.Created = c.Now().UTC().Truncate(time.Second)
	v.Updated = v.Created
	m, err := makeIt(keystore.Address{Key: c.id(name), Version: v.ID})
	if err != nil {
		return nil, err
	}
	v.Material = m.material
	var out *keystore.Key
	err = c.Backend.Update(c.req.Context(), c.id(name), func(old *keystore.Key) (*keystore.Key, error) {
		var err error
		if out, err = c.withVersion(old, name, v, exportable, policy); err == nil && m.customer != nil {
			out.Customer = m.customer
		}
		return out, err
	})
	if err != nil {
		return nil, err
	}
	afterCreate.Hit()
	return c.bundle(out, out.Latest())
}

// withVersion is the key with one more version, or the reason why not.
func (c *call) withVersion(old *keystore.Key, name string, v keystore.Version, exportable *bool, policy *keystore.Policy) (*keystore.Key, error) {
	if old == nil {
		k := &keystore.Key{ID: c.id(name), Versions: []keystore.Version{v}, Exportable: exportable != nil && *exportable, Policy: policy}
		switch {
		case k.Exportable && policy == nil:
			return nil, badParameter("AKV.SKR.1004: Exportable keys must have a release policy.")
		case !k.Exportable && policy != nil:
			return nil, badParameter("AKV.SKR.1005: Non-exportable keys must not have a release policy.")
		}
		if isGuestState(name) {
			k.GuestState = &keystore.GuestState{OperatorTrusted: v.Tags[client.OperatorTrustedTag] == "true" || c.isOperator(), StoreEpoch: c.Backend.Epoch()}
		}
		return k, nil
	}
	switch {
	case old.Destroyed:
		return nil, conflict("Key "+name+" was destroyed, and the name of a guest-state key is never used again.", "ObjectIsDestroyed")
	case old.Deleted != nil:
		return nil, conflict("Key "+name+" is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged.", "ObjectIsDeletedButRecoverable")
	case old.GuestState != nil:
		return nil, conflict("Guest-state key "+name+" exists and has one version only: a guest state is sealed with it.", "KeyExists")
	case exportable != nil && *exportable != old.Exportable:
		return nil, badParameter("AKV.SKR.1003: The exportable attribute of an existing key can't be changed.")
	}
	k := old.Clone()
	if policy != nil {
		if err := c.setPolicy(k, policy); err != nil {
			return nil, err
		}
	}
	k.Versions = append(k.Versions, v)
	return k, nil
}

func (c *call) isOperator() bool { return slices.Contains(c.Operators, c.caller.ObjectID) }

// setPolicy replaces the release policy of a key. A guest-state key whose policy the operator wrote once stays
// marked: its key may have been released by that policy.
func (c *call) setPolicy(k *keystore.Key, p *keystore.Policy) error {
	switch {
	case !k.Exportable:
		return badParameter("AKV.SKR.1005: Non-exportable keys must not have a release policy.")
	case k.Policy != nil && k.Policy.Immutable:
		return badParameter("AKV.SKR.1020: An immutable release policy can't be modified.")
	}
	k.Policy = p
	if k.GuestState != nil && c.isOperator() {
		k.GuestState.OperatorTrusted = true
	}
	return nil
}

func parsePolicy(in *client.ReleasePolicy) (*keystore.Policy, error) {
	if in == nil {
		return nil, nil
	}
	data, err := decode("release_policy.data", in.Data)
	if err != nil {
		return nil, err
	}
	if _, err := release.Parse(data); err != nil {
		return nil, err
	}
	contentType := in.ContentType
	if contentType == "" {
		contentType = "application/json; charset=utf-8"
	}
	if !strings.HasPrefix(strings.ToLower(contentType), "application/json") || len(contentType) > 100 {
		return nil, badParameter("release_policy.contentType is not application/json")
	}
	return &keystore.Policy{ContentType: contentType, Data: data, Immutable: in.Immutable}, nil
}

// apply sets what create and update share. Members that are absent change nothing.
func (c *call) apply(v *keystore.Version, ops []string, a *attributes, tags map[string]string) error {
	known := knownOps[v.Spec.Family()]
	for _, op := range ops {
		if !slices.Contains(known, op) {
			return badParameter(fmt.Sprintf("key_ops: %q is not possible for a key of kind %s", op, v.Spec.Kty))
		}
	}
	switch {
	case ops != nil:
		v.Ops = slices.Clone(ops)
	case v.Ops == nil:
		v.Ops = slices.Clone(known)
	}
	if len(tags) > maxTags {
		return badParameter(fmt.Sprintf("tags: at most %d", maxTags))
	}
	for name, value := range tags {
		if name == "" || len(name) > 512 || len(value) > 256 {
			return badParameter("tags: names have 1 to 512 bytes, values at most 256")
		}
	}
	if tags != nil {
		v.Tags = maps.Clone(tags)
	}
	if a == nil {
		return nil
	}
	if a.Enabled != nil {
		v.Enabled = *a.Enabled
	}
	for _, t := range []struct {
		in *int64
		to **time.Time
	}{{a.NotBefore, &v.NotBefore}, {a.Expires, &v.Expires}} {
		if t.in == nil {
			continue
		}
		if *t.in < 0 || *t.in > 1<<40 {
			return badParameter("attributes: times are Unix seconds")
		}
		at := time.Unix(*t.in, 0).UTC()
		*t.to = &at
	}
	if v.NotBefore != nil && v.Expires != nil && !v.NotBefore.Before(*v.Expires) {
		return badParameter("attributes: nbf must be before exp")
	}
	return nil
}

func (c *call) rotate(name string) (any, error) {
	if err := c.may("rotate/action", name); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	v, err := nextVersion(k, c.Now())
	if err != nil {
		return nil, err
	}
	return c.addVersion(name, v, nil, nil, c.generated(v.Spec))
}

func (c *call) update(name, version string) (any, error) {
	if err := c.may("write", name); err != nil {
		return nil, err
	}
	var in updateBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	policy, err := parsePolicy(in.ReleasePolicy)
	if err != nil {
		return nil, err
	}
	var out *keystore.Key
	var changed *keystore.Version
	err = c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted != nil || k.Destroyed {
			return nil, keyNotFound(name)
		}
		v := k.Version(version)
		switch {
		case v == nil:
			return nil, keyNotFound(name + "/" + version)
		case in.Attributes != nil && in.Attributes.Exportable != nil && *in.Attributes.Exportable != k.Exportable:
			return nil, badParameter("AKV.SKR.1014: The exportable attribute can't be modified.")
		case k.GuestState != nil && len(in.KeyOps) > 0:
			return nil, badParameter("a guest-state key has no operations")
		}
		ops := in.KeyOps
		if k.GuestState != nil {
			ops = nil
		}
		if err := c.apply(v, ops, in.Attributes, in.Tags); err != nil {
			return nil, err
		}
		if policy != nil {
			if err := c.setPolicy(k, policy); err != nil {
				return nil, err
			}
		}
		v.Updated = c.Now().UTC().Truncate(time.Second)
		out, changed = k, v
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	return c.bundle(out, changed)
}

// fits refuses AES keys in a vault: they lie in pools. Guest-state keys may lie in either.
func (c *call) fits(name string, spec keystore.Spec) error {
	if spec.Family() == "oct" && c.vault.Kind != vaults.KindPool && !isGuestState(name) {
		return badParameter("kty " + spec.Kty + ": AES keys lie in HSM pools; this is a vault")
	}
	return nil
}
