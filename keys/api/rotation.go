package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/vaults"
)

// The rotation policy of a key, in Key Vault's form. It really runs: Sweep makes the new versions.

const rotationMember = "rotationPolicy"

type rotationPolicy struct {
	ID         string           `json:"id,omitempty"`
	Actions    []lifetimeAction `json:"lifetimeActions"`
	Attributes struct {
		ExpiryTime string `json:"expiryTime,omitempty"`
		Created    int64  `json:"created,omitempty"`
		Updated    int64  `json:"updated,omitempty"`
	} `json:"attributes"`
}

type lifetimeAction struct {
	Trigger struct {
		AfterCreate  string `json:"timeAfterCreate,omitempty"`
		BeforeExpiry string `json:"timeBeforeExpiry,omitempty"`
	} `json:"trigger"`
	Action struct {
		Type string `json:"type"`
	} `json:"action"`
}

// The limits of Key Vault.
const (
	minExpiry      = 28 * 24 * time.Hour
	minAfterCreate = 7 * 24 * time.Hour
)

var periodForm = regexp.MustCompile(`^P(?:([0-9]{1,4})Y)?(?:([0-9]{1,5})M)?(?:([0-9]{1,5})W)?(?:([0-9]{1,6})D)?$`)

// period is a span of the calendar: ISO 8601 with years, months, weeks and days.
type period struct{ years, months, days int }

func parsePeriod(field, s string) (period, error) {
	m := periodForm.FindStringSubmatch(s)
	if m == nil || s == "P" {
		return period{}, badParameter(fmt.Sprintf("%s: %q is not a period such as P90D, P18M or P2Y", field, s))
	}
	n := func(i int) int {
		v, err := strconv.Atoi(m[i])
		if err != nil { // empty: the part is not there
			return 0
		}
		return v
	}
	return period{n(1), n(2), 7*n(3) + n(4)}, nil
}

func (p period) after(t time.Time) time.Time  { return t.AddDate(p.years, p.months, p.days) }
func (p period) before(t time.Time) time.Time { return t.AddDate(-p.years, -p.months, -p.days) }

// atLeast compares with a span, counted from a time: months have no one length.
func (p period) atLeast(d time.Duration, from time.Time) bool { return p.after(from).Sub(from) >= d }

// check refuses a policy that could never do what it says.
func (p rotationPolicy) check(now time.Time) error {
	expiry := period{}
	if p.Attributes.ExpiryTime != "" {
		var err error
		if expiry, err = parsePeriod("attributes.expiryTime", p.Attributes.ExpiryTime); err != nil {
			return err
		}
		if !expiry.atLeast(minExpiry, now) {
			return badParameter("attributes.expiryTime: at least P28D")
		}
	}
	if len(p.Actions) > 2 {
		return badParameter("lifetimeActions: at most one to rotate and one to notify")
	}
	seen := map[string]bool{}
	for i, a := range p.Actions {
		field := fmt.Sprintf("lifetimeActions[%d]", i)
		kind := strings.ToLower(a.Action.Type)
		after, before := a.Trigger.AfterCreate, a.Trigger.BeforeExpiry
		switch {
		case kind != "rotate" && kind != "notify" || seen[kind]:
			return badParameter(field + ".action.type: Rotate or Notify, each once")
		case (after == "") == (before == ""):
			return badParameter(field + ".trigger: one of timeAfterCreate and timeBeforeExpiry")
		case kind == "notify" && after != "":
			return badParameter(field + ".trigger: Notify goes by timeBeforeExpiry")
		case before != "" && p.Attributes.ExpiryTime == "":
			return badParameter(field + ".trigger.timeBeforeExpiry needs attributes.expiryTime")
		}
		seen[kind] = true
		if after != "" {
			t, err := parsePeriod(field+".trigger.timeAfterCreate", after)
			if err != nil {
				return err
			}
			if !t.atLeast(minAfterCreate, now) {
				return badParameter(field + ".trigger.timeAfterCreate: at least P7D")
			}
			if p.Attributes.ExpiryTime != "" && !t.after(now).Before(expiry.after(now)) {
				return badParameter(field + ".trigger.timeAfterCreate: before the key expires")
			}
			continue
		}
		t, err := parsePeriod(field+".trigger.timeBeforeExpiry", before)
		if err != nil {
			return err
		}
		if !t.after(now).Before(expiry.after(now)) {
			return badParameter(field + ".trigger.timeBeforeExpiry: less than attributes.expiryTime")
		}
	}
	return nil
}

// due tells whether a key's newest version is to be followed by another.
func (p rotationPolicy) due(v *keystore.Version, now time.Time) (bool, error) {
	for _, a := range p.Actions {
		if !strings.EqualFold(a.Action.Type, "rotate") {
			continue
		}
		if a.Trigger.AfterCreate != "" {
			t, err := parsePeriod("timeAfterCreate", a.Trigger.AfterCreate)
			return err == nil && !now.Before(t.after(v.Created)), err
		}
		t, err := parsePeriod("timeBeforeExpiry", a.Trigger.BeforeExpiry)
		return err == nil && v.Expires != nil && !now.Before(t.before(*v.Expires)), err
	}
	return false, nil
}

func readRotation(k *keystore.Key) (rotationPolicy, error) {
	var p rotationPolicy
	raw, ok := k.Extra[rotationMember]
	if !ok {
		p.Actions = []lifetimeAction{}
		return p, nil
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("rotation policy of %s: %w", k.ID, err)
	}
	return p, nil
}

func (c *call) getRotation(name string) (any, error) {
	if err := c.may("rotationpolicy/read", name); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	p, err := readRotation(k)
	p.ID = c.base + "/keys/" + k.ID.Name + "/rotationpolicy"
	return p, err
}

func (c *call) putRotation(name string) (any, error) {
	if err := c.may("rotationpolicy/write", name); err != nil {
		return nil, err
	}
	var in rotationPolicy
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	now := c.Now().UTC().Truncate(time.Second)
	if err := in.check(now); err != nil {
		return nil, err
	}
	err := c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted != nil || k.Destroyed {
			return nil, keyNotFound(name)
		}
		if k.GuestState != nil {
			return nil, badParameter("a guest-state key is not rotated")
		}
		old, err := readRotation(k)
		if err != nil {
			return nil, err
		}
		in.Attributes.Created, in.Attributes.Updated = old.Attributes.Created, now.Unix()
		if in.Attributes.Created == 0 {
			in.Attributes.Created = now.Unix()
		}
		in.ID = ""
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		if k.Extra == nil {
			k.Extra = map[string][]byte{}
		}
		k.Extra[rotationMember] = raw
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	in.ID = c.base + "/keys/" + name + "/rotationpolicy"
	return in, nil
}

// nextVersion is what a rotation makes: a version like the newest one, which expires as the policy says.
func nextVersion(k *keystore.Key, now time.Time) (keystore.Version, error) {
	last := k.Latest()
	v := keystore.Version{Spec: last.Spec, Enabled: true, Ops: slices.Clone(last.Ops), Tags: maps.Clone(last.Tags)}
	p, err := readRotation(k)
	if err != nil || p.Attributes.ExpiryTime == "" {
		return v, err
	}
	t, err := parsePeriod("expiryTime", p.Attributes.ExpiryTime)
	if err != nil {
		return v, err
	}
	at := t.after(now.UTC().Truncate(time.Second))
	v.Expires = &at
	return v, nil
}

// background is a call that the service makes by itself, for a vault.
func (s *Server) background(ctx context.Context, vault vaults.Vault) *call {
	return &call{Server: s, req: (&http.Request{}).WithContext(ctx), vault: vault, requestID: "background", operation: "background"}
}

// rotateDue makes the versions that rotation policies ask for, and puts guest-state keys that follow a customer's key under its
// newest version. One that fails doesn't keep the others: they are tried again the next time.
func (s *Server) rotateDue(ctx context.Context, vault vaults.Vault, keys []*keystore.Key) error {
	var errs []error
	c := s.background(ctx, vault)
	for _, k := range keys {
		if k.Deleted != nil || k.Destroyed || k.Latest() == nil || k.GuestState != nil {
			continue
		}
		p, err := readRotation(k)
		if err == nil {
			var due bool
			if due, err = p.due(k.Latest(), s.Now()); due {
				err = c.rotateNow(k)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rotating %s: %w", k.ID, err))
		}
	}
	for _, k := range keys {
		if k.Deleted != nil || k.Customer == nil || !k.Customer.Latest {
			continue
		}
		if err := c.follow(k); err != nil {
			errs = append(errs, fmt.Errorf("putting %s under a new version: %w", k.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (c *call) rotateNow(k *keystore.Key) error {
	v, err := nextVersion(k, c.Now())
	if err != nil {
		return err
	}
	_, err = c.addVersion(k.ID.Name, v, nil, nil, c.generated(v.Spec))
	return err
}
