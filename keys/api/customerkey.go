package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/customerkey"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/vaults"
)

var (
	afterServes = failpoint.New("keys/customer-key-marked")
	afterRewrap = failpoint.New("keys/guest-state-key-rewrapped")
)

const customerRule = "customer-managed key"

// customerRef is what the creator of a guest-state key says about the customer's key that it shall be under.
type customerRef struct {
	vault         vaults.Vault // of the same tenant as the guest-state key's
	name, version string
	latest        bool
	identity      string
}

// customerKeyOf reads the tags of a guest-state key that is created. Without them there is no customer's key.
func (c *call) customerKeyOf(tags map[string]string) (*customerRef, error) {
	kid, ok := tags[client.CustomerKeyTag]
	if !ok {
		for _, tag := range []string{client.CustomerKeyRotationTag, client.CustomerKeyIdentityTag} {
			if _, ok := tags[tag]; ok {
				return nil, badParameter("tag " + tag + " needs tag " + client.CustomerKeyTag)
			}
		}
		return nil, nil
	}
	ref := &customerRef{identity: c.caller.ObjectID}
	var err error
	if ref.vault, ref.name, ref.version, err = c.keyOfTenant(kid); err != nil {
		return nil, err
	}
	switch rotation := tags[client.CustomerKeyRotationTag]; rotation {
	case "latest":
		ref.latest = true
	case "":
	default:
		return nil, badParameter(fmt.Sprintf("tag %s: %q, want latest or nothing", client.CustomerKeyRotationTag, rotation))
	}
	if id := tags[client.CustomerKeyIdentityTag]; id != "" {
		if !uuidForm.MatchString(id) {
			return nil, badParameter("tag " + client.CustomerKeyIdentityTag + " is not an object id")
		}
		ref.identity = id
	}
	return ref, nil
}

// keyOfTenant reads a key's URL, with or without a version: a key of this vault, or of another one of the same tenant
// here. Other addresses are refused: nothing here ever calls one that came in a request.
func (c *call) keyOfTenant(kid string) (v vaults.Vault, name, version string, err error) {
	none := vaults.Vault{}
	bad := badParameter(fmt.Sprintf("the customer's key must be named as %s/keys/NAME or %s/keys/NAME/VERSION, or so in another vault of the same tenant here", c.base, c.base))
	u, err := url.Parse(kid)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return none, "", "", bad
	}
	label, suffix, _ := strings.Cut(u.Host, ".")
	if !strings.EqualFold(suffix, c.Suffix+c.port) {
		return none, "", "", bad
	}
	found, err := c.vaultNamed(c.req.Context(), label)
	if err != nil {
		return none, "", "", err
	}
	if found == nil || !found.Live() || found.Tenant != c.vault.Tenant {
		return none, "", "", bad
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "keys" || !nameForm.MatchString(parts[1]) || isGuestState(parts[1]) {
		return none, "", "", bad
	}
	if len(parts) == 3 {
		if version = parts[2]; !versionID.MatchString(version) {
			return none, "", "", bad
		}
	}
	return *found, parts[1], version, nil
}

// customer is a version of the customer's key that may be used now.
type customer struct {
	in      vaults.Vault
	at      keystore.Address
	alg     string
	version *keystore.Version
	key     *keystore.Key
}

// findCustomer finds the customer's key and says why it can't be used, if so: that is how its owner stops a VM's next
// start. The role counts of the identity that was named when the guest-state key was put under it.
func (c *call) findCustomer(in vaults.Vault, name, version, who string) (*customer, error) {
	field := "customer-managed key " + in.Name + "/" + name
	no := func(got, want string) error {
		return unattested(evidence.Refuse(evidence.CodePolicy, field, got, want).By(customerRule))
	}
	if !in.Live() {
		return nil, no("in a vault that was deleted", "a vault that is there; recover it and start again")
	}
	if err := c.mayServe(in, name, who); err != nil {
		return nil, no(err.Error(), "Key Vault Crypto Service Encryption User for the encryption set's identity")
	}
	k, err := c.Backend.Get(c.req.Context(), keystore.ID{Vault: in.ID(), Name: name})
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return nil, no("not there, or purged", "the key that the guest-state key is under")
	case err != nil:
		return nil, err
	case k.Deleted != nil:
		return nil, no("deleted at "+k.Deleted.At.Format("2006-01-02T15:04:05Z"), "a key that is there; recover it and start again")
	case k.GuestState != nil || k.Destroyed:
		return nil, no("a guest-state key", "a key of the customer's")
	}
	v := k.Version(version)
	if v == nil {
		return nil, no("no version "+version, "a version that exists")
	}
	if !v.Enabled {
		return nil, no("version "+v.ID+" is disabled", "an enabled version; enable it and start again")
	}
	alg, err := customerkey.Algorithm(v.Spec)
	if err != nil {
		return nil, err
	}
	return &customer{in: in, at: keystore.Address{Key: k.ID, Version: v.ID}, alg: alg, version: v, key: k}, nil
}

// customerOf finds the customer's key that a record names, in a version.
func (c *call) customerOf(ref keystore.CustomerKey, version string) (*customer, error) {
	in, err := c.vaultNamed(c.req.Context(), ref.Vault)
	if err != nil {
		return nil, err
	}
	if in == nil || in.Tenant != c.vault.Tenant {
		in = &vaults.Vault{Name: ref.Vault, Purging: true} // purged, and perhaps another's by now
	}
	return c.findCustomer(*in, ref.Name, version, ref.Identity)
}

// mayServe tells whether an identity may have a key wrap and unwrap. In another vault it takes the role made for that, by
// which that vault's owner consented to a key that does nothing else any more.
func (c *call) mayServe(in vaults.Vault, name, who string) error {
	for _, action := range []string{"wrap/action", "unwrap/action"} {
		if c.allowed(in, &identity.Principal{ObjectID: who}, action, name) != nil {
			return fmt.Errorf("identity %s has no role for %s", who, action)
		}
	}
	if in.ID().Same(c.vault.ID()) || !in.Roles {
		return nil
	}
	all, err := c.rolesIn(in)
	if err != nil {
		return err
	}
	var service roles.List
	for _, a := range all {
		if r, ok := roles.ByName(a.Role); ok && r.ServiceEncryption() {
			service = append(service, a)
		}
	}
	if service.Allowed(&identity.Principal{ObjectID: who}, actions+"unwrap/action", "/vaults/"+in.Name+"/keys/"+name) != nil {
		return fmt.Errorf("identity %s has another role", who)
	}
	return nil
}

func (c *call) wrapper(
	ctx context.Context, with *customer) customerkey.Wrapper {
	return func(dataKey, associated []byte) (keystore.Sealed, error) {
		s, err := c.Backend.Encrypt(ctx, with.at, with.version.Material, with.alg, dataKey, keystore.Sealed{AAD: associated})
		s.AAD = nil // known at each use
		return s, err
	}
}

func (c *call) unwrapper(ctx context.Context, with *customer) customerkey.Unwrapper {
	return func(s keystore.Sealed, associated []byte) ([]byte, error) {
		s.AAD = associated
		return c.Backend.Decrypt(ctx, with.at, with.version.Material, with.alg, s)
	}
}

// underCustomerKey makes a guest-state key under a customer's key. The mark on the customer's key comes first and stays:
// from then on that key unwraps for VMs that prove themselves, and for nobody else.
func (c *call) underCustomerKey(ref customerRef, vmID string) (*keystore.CustomerKey, error) {
	ctx := c.req.Context()
	with, err := c.findCustomer(ref.vault, ref.name, ref.version, ref.identity)
	if err != nil {
		return nil, err
	}
	if err := c.markServes(with.key.ID); err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	defer clear(secret)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	e, err := customerkey.Seal(vmID, secret, c.wrapper(ctx, with))
	if err != nil {
		return nil, err
	}
	return &keystore.CustomerKey{Vault: with.in.Name, Name: with.key.ID.Name, Version: with.version.ID, Latest: ref.latest, Identity: ref.identity, Envelope: e}, nil
}

func (c *call) markServes(id keystore.ID) error {
	err := c.Backend.Update(c.req.Context(), id, func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted != nil {
			return nil, keyNotFound(id.Name)
		}
		k.Serves = true
		return k, nil
	})
	if err == nil {
		afterServes.Hit()
	}
	return err
}

// exporter wraps a guest-state key for a VM that was judged, and gives the customer's part of the record as it is to be kept.
type exporter struct {
	before *keystore.CustomerKey // the customer's part as it was read; nil without a customer's key
	also   *keystore.Key         // the customer's key, where it has a release policy of its own
	wrap   func(keywrap.Form, wrapTo) ([]byte, *keystore.CustomerKey, error)
}

// prepareExport looks up the records that the export of a guest-state key needs, before the record's own change begins: a change
// may not read other records. No key is used here: the VM was not judged yet.
func (c *call) prepareExport(name string) (exporter, error) {
	ctx := c.req.Context()
	k, err := c.Backend.Get(ctx, c.id(name))
	if errors.Is(err, keystore.ErrNotFound) {
		return exporter{}, nil // the change says so in the words that callers know
	}
	if err != nil {
		return exporter{}, err
	}
	v := k.Latest()
	if k.GuestState == nil || v == nil || k.Deleted != nil {
		return exporter{before: k.Customer}, nil // likewise
	}
	if k.Customer == nil {
		at := keystore.Address{Key: k.ID, Version: v.ID}
		return exporter{wrap: func(form keywrap.Form, w wrapTo) ([]byte, *keystore.CustomerKey, error) {
			wrapped, err := c.Backend.Export(ctx, at, v.Material, form, w.key)
			return wrapped, nil, err
		}}, nil
	}
	vmID, ref := strings.TrimPrefix(strings.ToLower(k.ID.Name), "gs-"), *k.Customer
	with, err := c.customerOf(ref, ref.Version)
	if err != nil {
		return exporter{}, err
	}
	next := with
	if newest := with.key.Latest(); ref.Latest && newest.ID != ref.Version {
		if next, err = c.customerOf(ref, newest.ID); err != nil {
			return exporter{}, err
		}
	}
	var also *keystore.Key
	if with.key.Policy != nil {
		also = with.key
	}
	return exporter{before: k.Customer, also: also, wrap: func(form keywrap.Form, w wrapTo) ([]byte, *keystore.CustomerKey, error) {
		if next != with {
			envelope, err := customerkey.Rewrap(vmID, ref.Envelope, c.unwrapper(ctx, with), c.wrapper(ctx, next))
			if err != nil {
				return nil, nil, err
			}
			ref.Version, ref.Envelope = next.version.ID, envelope
		}
		secret, err := customerkey.Open(vmID, ref.Envelope, c.unwrapper(ctx, next))
		if err != nil {
			return nil, nil, err
		}
		defer clear(secret)
		wrapped, err := keywrap.Wrap(form, w.key, secret)
		return wrapped, &ref, err
	}}, nil
}

// sameEnvelope refuses a change that was prepared for another state of the record.
func sameEnvelope(now, before *keystore.CustomerKey) error {
	if (now == nil) != (before == nil) || now != nil && (now.Version != before.Version || now.Name != before.Name || now.Vault != before.Vault || string(now.Envelope.Data) != string(before.Envelope.Data)) {
		return evidence.Refuse(evidence.CodeUnavailable, "guest-state key", "put under another key at this moment", "no other change; try again")
	}
	return nil
}

// rewrapBody names the key that a guest-state key shall be under from now on; an absent one means the newest version of the
// present one.
type rewrapBody struct {
	CustomerKey string `json:"customerKey"`
	Rotation    string `json:"rotation"` // "latest" or nothing
	Identity    string `json:"identity"` // absent: the caller
}

// rewrapped answers a rewrap.
type rewrapped struct {
	VMID        string `json:"vmId"`
	CustomerKey string `json:"customerKey"`
	Rotation    string `json:"rotation,omitempty"`
}

// rewrapGuestState puts a guest-state key under another version of the customer's key, or under another key. The guest state
// and the disk stay as they are.
func (c *call) rewrapGuestState(vmID string) (any, error) {
	if !uuidForm.MatchString(vmID) {
		return nil, evidence.Refuse(evidence.CodeParse, "vmId", fmt.Sprintf("%q", vmID), "a UUID in lower case")
	}
	name := client.KeyName(vmID)
	e := c.entry("rewrap", name)
	out, err := c.rewrap(vmID, name, &e)
	if err != nil {
		return nil, c.refused(e, err)
	}
	afterRewrap.Hit()
	return out, nil
}

func (c *call) rewrap(vmID, name string, e *audit.Entry) (*rewrapped, error) {
	if err := c.may("write", name); err != nil {
		return nil, err
	}
	var in rewrapBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	if k.GuestState == nil || k.Customer == nil {
		return nil, badParameter("key " + name + " is not under a customer's key; that is chosen when a VM is created")
	}
	ctx := c.req.Context()
	from, err := c.customerOf(*k.Customer, k.Customer.Version)
	if err != nil {
		return nil, err
	}
	to, ref, err := c.rewrapTo(*k.Customer, in)
	if err != nil {
		return nil, err
	}
	if err := c.markServes(to.key.ID); err != nil {
		return nil, err
	}
	envelope, err := customerkey.Rewrap(vmID, k.Customer.Envelope, c.unwrapper(ctx, from), c.wrapper(ctx, to))
	if err != nil {
		return nil, err
	}
	next := &keystore.CustomerKey{Vault: to.in.Name, Name: to.key.ID.Name, Version: to.version.ID, Latest: ref.latest, Identity: ref.identity, Envelope: envelope}
	if err := c.replaceEnvelope(name, k.Customer, next, func() error { return c.granted(*e) }); err != nil {
		return nil, err
	}
	out := &rewrapped{VMID: vmID, CustomerKey: c.baseOf(to.in.Name) + "/keys/" + to.key.ID.Name + "/" + to.version.ID}
	if next.Latest {
		out.Rotation = "latest"
	}
	return out, nil
}

// rewrapTo finds the key that a rewrap asks for: the one it names, or the newest version of the present one.
func (c *call) rewrapTo(now keystore.CustomerKey, in rewrapBody) (*customer, customerRef, error) {
	if in.CustomerKey == "" {
		to, err := c.customerOf(now, "")
		return to, customerRef{latest: now.Latest, identity: now.Identity}, err
	}
	asked, err := c.customerKeyOf(map[string]string{client.CustomerKeyTag: in.CustomerKey, client.CustomerKeyRotationTag: in.Rotation, client.CustomerKeyIdentityTag: in.Identity})
	if err != nil {
		return nil, customerRef{}, err
	}
	to, err := c.findCustomer(asked.vault, asked.name, asked.version, asked.identity)
	return to, *asked, err
}

// follow puts a guest-state key that follows its customer's key under the newest version, if it is not there yet.
func (c *call) follow(k *keystore.Key) error {
	ctx, ref := c.req.Context(), k.Customer
	from, err := c.customerOf(*ref, ref.Version)
	if err != nil || from.key.Latest().ID == ref.Version {
		return err
	}
	to, err := c.customerOf(*ref, "")
	if err != nil {
		return err
	}
	vmID := strings.TrimPrefix(strings.ToLower(k.ID.Name), "gs-")
	next := *ref
	next.Version = to.version.ID
	if next.Envelope, err = customerkey.Rewrap(vmID, ref.Envelope, c.unwrapper(ctx, from), c.wrapper(ctx, to)); err != nil {
		return err
	}
	e := audit.Entry{Event: "rewrap", RequestID: c.requestID, Vault: c.vault.Name, Key: k.ID.Name, Version: to.version.ID, VMID: vmID}
	return c.replaceEnvelope(k.ID.Name, ref, &next, func() error { return c.granted(e) })
}

// replaceEnvelope writes a new envelope where the record still is as it was. The entry in the log comes before the record.
func (c *call) replaceEnvelope(name string, before, next *keystore.CustomerKey, logged func() error) error {
	return c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted != nil || k.Customer == nil {
			return nil, keyNotFound(name)
		}
		if err := sameEnvelope(k.Customer, before); err != nil {
			return nil, err
		}
		if err := logged(); err != nil {
			return nil, err
		}
		k.Customer = next
		return k, nil
	})
}
