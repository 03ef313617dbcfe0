package vaults

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	tenant = "11111111-0000-4000-8000-000000000001"
	other  = "11111111-0000-4000-8000-000000000002"
	owner  = "22222222-0000-4000-8000-000000000001"
	guest  = "22222222-0000-4000-8000-000000000002"
)

func vault() Vault {
	return Vault{Name: "a-vault", Kind: KindVault, Tenant: tenant, Roles: true, RetentionDays: 7, Resource: "/r"}
}

func reason(err error) string {
	var c *Conflict
	if errors.As(err, &c) {
		return c.Reason
	}
	return ""
}

func TestNames(t *testing.T) {
	for _, name := range []string{"abc", "a-1", "paris", "abcdefghijklmnopqrstuvwx"} {
		if err := CheckName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "ab", "1abc", "-abc", "abc-", "a--b", "Abc", "a.b", "a/b", "abcdefghijklmnopqrstuvwxy", "abc\n", "äbc"} {
		if CheckName(name) == nil {
			t.Errorf("%q: accepted", name)
		}
	}
}

func TestAdministers(t *testing.T) {
	v := vault()
	if v.Administers("") || v.Administers(owner) {
		t.Error("a vault of the configuration has an owner")
	}
	v.Owner, v.Administrators = owner, []string{guest}
	for id, want := range map[string]bool{owner: true, guest: true, "": false, tenant: false} {
		if v.Administers(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func TestAllows(t *testing.T) {
	v := vault()
	v.AccessPolicies = []AccessPolicy{
		{Tenant: tenant, ObjectID: owner, Permissions: Permissions{Keys: []string{"Get", "wrapKey"}, Secrets: []string{"all"}}},
		{Tenant: tenant, ObjectID: guest, ApplicationID: other, Permissions: Permissions{Keys: []string{"All"}}},
	}
	for _, r := range []struct {
		name, object, app, action string
		want                      bool
	}{
		{"given, in another case", owner, "", "read", true},
		{"given", owner, "app", "wrap/action", true},
		{"not given", owner, "", "unwrap/action", false},
		{"listing is not reading", owner, "", List, false},
		{"secrets are not keys", owner, "", "delete", false},
		{"an unknown action", owner, "", "own/action", false},
		{"all, by its application", guest, other, "sign/action", true},
		{"all, by another application", guest, tenant, "sign/action", false},
		{"all, without an application", guest, "", "sign/action", false},
		{"all is not purge", guest, other, "purge/action", false},
		{"nobody", "", "", "read", false},
		{"someone else", other, "", "read", false},
	} {
		if got := v.Allows(r.object, r.app, r.action); got != r.want {
			t.Errorf("%s: %v", r.name, got)
		}
	}
}

// Whatever is asked for in whatever order: a vault never changes hands or kind, protection is never taken away, a protected
// vault is never purged before its time, and what is being purged never comes back.
func TestLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var v *Vault
		now := time.Unix(1_800_000_000, 0)
		tenants := rapid.SampledFrom([]string{tenant, other})
		step := func(next Vault, err error) {
			if err == nil {
				v = &next
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				ask := vault()
				ask.Tenant = tenants.Draw(t, "tenant")
				ask.PurgeProtection = rapid.Bool().Draw(t, "protected")
				ask.RetentionDays = rapid.SampledFrom([]int{6, 7, 8}).Draw(t, "days")
				ask.Kind = rapid.SampledFrom([]Kind{KindVault, KindPool}).Draw(t, "kind")
				ask.Roles = rapid.Bool().Draw(t, "roles")
				mayGive := rapid.Bool().Draw(t, "may give access")
				before := v
				next, err := Put(v, ask, owner, mayGive, now)
				if err != nil {
					return
				}
				if before != nil && (before.Tenant != next.Tenant || before.Kind != next.Kind || before.RetentionDays != next.RetentionDays || before.PurgeProtection && !next.PurgeProtection ||
					before.Owner != next.Owner || !before.Live() || before.Roles != next.Roles && !mayGive) {
					t.Fatalf("%+v became %+v", before, next)
				}
				v = &next
			},
			"delete": func(*rapid.T) { step(Delete(v, now)) },
			"recover": func(t *rapid.T) {
				purging := v != nil && v.Purging
				by := tenants.Draw(t, "tenant")
				next, err := Recover(v, by)
				if err == nil && (purging || by != v.Tenant) {
					t.Fatal("recovered while purging, or by another tenant")
				}
				step(next, err)
			},
			"purge": func(t *rapid.T) {
				by := tenants.Draw(t, "tenant")
				next, err := Purge(v, by, now)
				if err == nil && (by != v.Tenant || v.Deleted == nil || v.PurgeProtection && !v.Purging && now.Before(v.Deleted.Add(v.Retention()))) {
					t.Fatalf("purged %+v", v)
				}
				step(next, err)
			},
			"destroyed": func(*rapid.T) {
				if v != nil && v.Purging {
					v = nil
				}
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "hours")) * time.Hour) },
			"": func(t *rapid.T) {
				if v != nil && (v.Purging && v.Deleted == nil || v.Live() == (v.Deleted != nil)) {
					t.Fatalf("%+v", v)
				}
			},
		})
	})
}

func TestReasons(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	live := vault()
	gone, err := Delete(&live, now)
	if err != nil {
		t.Fatal(err)
	}
	kept := gone
	kept.PurgeProtection = true
	foreign := vault()
	foreign.Tenant = other
	for name, r := range map[string]struct {
		err  func() error
		want string
	}{
		"taken":                   {func() error { _, err := Put(&foreign, vault(), owner, true, now); return err }, Taken},
		"deleted":                 {func() error { _, err := Put(&gone, vault(), owner, true, now); return err }, IsDeleted},
		"deleting nothing":        {func() error { _, err := Delete(nil, now); return err }, NotThere},
		"recovering a live one":   {func() error { _, err := Recover(&live, tenant); return err }, NotThere},
		"purging a live one":      {func() error { _, err := Purge(&live, tenant, now); return err }, NotThere},
		"purging a protected one": {func() error { _, err := Purge(&kept, tenant, now); return err }, Protected},
		"purging another's":       {func() error { _, err := Purge(&gone, other, now); return err }, NotThere},
	} {
		if got := reason(r.err()); got != r.want {
			t.Errorf("%s: %q, want %q", name, got, r.want)
		}
	}
	if _, err := Purge(&kept, tenant, now.Add(7*24*time.Hour)); err != nil {
		t.Error(err)
	}
	if _, err := Put(nil, vault(), "", true, now); err == nil {
		t.Error("made by nobody")
	}
}
