package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/keystore"
)

var afterDelete = failpoint.New("keys/key-deleted")

// live finds a key that is neither deleted nor destroyed.
func (c *call) live(name string) (*keystore.Key, error) {
	k, err := c.Backend.Get(c.req.Context(), c.id(name))
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return nil, keyNotFound(name)
	case err != nil:
		return nil, err
	case k.Deleted != nil || k.Destroyed || k.Latest() == nil:
		return nil, keyNotFound(name)
	}
	return k, nil
}

func (c *call) get(name, version string) (any, error) {
	if err := c.may("read", name); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	v := k.Version(version)
	if v == nil {
		return nil, keyNotFound(name + "/" + version)
	}
	return c.bundle(k, v)
}

// maxPage is Key Vault's largest page.
const maxPage = 25

// pages cuts a list. The position is carried by the id of the last item, so that a page does not
// depend on what was added or taken out before it.
func (c *call) pages(path string, ids []string, item func(i int) bundle) (any, error) {
	q := c.req.URL.Query()
	limit := maxPage
	if s := q.Get("maxresults"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return nil, badParameter(fmt.Sprintf("maxresults is 1 to %d", maxPage))
		}
		limit = n
	}
	after := q.Get("$skiptoken")
	out := page{Value: []bundle{}}
	for i, id := range ids {
		if id <= after {
			continue
		}
		if len(out.Value) == limit {
			next := c.base + path + "?" + url.Values{"api-version": {c.version}, "$skiptoken": {ids[i-1]}, "maxresults": {strconv.Itoa(limit)}}.Encode()
			out.NextLink = &next
			break
		}
		out.Value = append(out.Value, item(i))
	}
	return out, nil
}

func (c *call) listed(keep func(*keystore.Key) bool) ([]*keystore.Key, []string, error) {
	if err := c.may("read", ""); err != nil {
		return nil, nil, err
	}
	all, err := c.Backend.List(c.req.Context(), c.vault.ID())
	if err != nil {
		return nil, nil, err
	}
	var keys []*keystore.Key
	var ids []string
	for _, k := range all {
		if keep(k) && k.Latest() != nil {
			keys, ids = append(keys, k), append(ids, strings.ToLower(k.ID.Name))
		}
	}
	return keys, ids, nil
}

func (c *call) list() (any, error) {
	keys, ids, err := c.listed(func(k *keystore.Key) bool { return k.Deleted == nil })
	if err != nil {
		return nil, err
	}
	return c.pages("/keys", ids, func(i int) bundle {
		return c.item(keys[i], keys[i].Latest(), c.base+"/keys/"+keys[i].ID.Name)
	})
}

func (c *call) listDeleted() (any, error) {
	keys, ids, err := c.listed(func(k *keystore.Key) bool { return k.Deleted != nil })
	if err != nil {
		return nil, err
	}
	return c.pages("/deletedkeys", ids, func(i int) bundle {
		return c.item(keys[i], keys[i].Latest(), c.base+"/keys/"+keys[i].ID.Name)
	})
}

func (c *call) versions(name string) (any, error) {
	if err := c.may("read", name); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(k.Versions))
	for i := range k.Versions {
		ids[i] = fmt.Sprintf("%08d", i+1)
	}
	return c.pages("/keys/"+k.ID.Name+"/versions", ids, func(i int) bundle {
		return c.item(k, &k.Versions[i], c.kid(k, &k.Versions[i]))
	})
}

func (c *call) remove(name string) (any, error) {
	if err := c.may("delete", name); err != nil {
		return nil, err
	}
	var out *keystore.Key
	err := c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted != nil || k.Destroyed {
			return nil, keyNotFound(name)
		}
		now := c.Now().UTC().Truncate(time.Second)
		k.Deleted = &keystore.Deleted{At: now, Purge: now.Add(c.vault.Retention())}
		out = k
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	afterDelete.Hit()
	return c.bundle(out, out.Latest())
}

func (c *call) getDeleted(name string) (any, error) {
	if err := c.may("read", name); err != nil {
		return nil, err
	}
	k, err := c.Backend.Get(c.req.Context(), c.id(name))
	if err != nil {
		return nil, err
	}
	if k.Deleted == nil {
		return nil, keyNotFound(name)
	}
	return c.bundle(k, k.Latest())
}

func (c *call) purge(name string) error {
	if err := c.may("purge/action", name); err != nil {
		return err
	}
	if c.vault.PurgeProtection {
		return &failure{status: http.StatusForbidden, code: "Forbidden", inner: "ForbiddenByPolicy", message: "Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault service will automatically purge it after the retention period has passed.\r\nVault: " + c.vault.Name}
	}
	return c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted == nil {
			return nil, keyNotFound(name)
		}
		return destroyed(k), nil
	})
}

// destroyed is what is left of a key: nothing, or the name of a guest-state key.
func destroyed(k *keystore.Key) *keystore.Key {
	if k.GuestState == nil {
		return nil
	}
	return &keystore.Key{ID: k.ID, Destroyed: true}
}

func (c *call) recoverKey(name string) (any, error) {
	if err := c.may("recover/action", name); err != nil {
		return nil, err
	}
	var out *keystore.Key
	err := c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if k == nil || k.Deleted == nil {
			return nil, keyNotFound(name)
		}
		k.Deleted = nil
		out = k
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	return c.bundle(out, out.Latest())
}

// Sweep does what is due: rotations that policies ask for, and the destruction of keys whose time as deleted keys is over.
func (s *Server) Sweep(ctx context.Context) error {
	now := s.Now()
	live, failed := s.sweepVaults(ctx) // a vault that can't be purged keeps no other one waiting
	for _, vault := range live {
		all, err := s.Backend.List(ctx, vault.ID())
		if err != nil {
			return err
		}
		if err := s.rotateDue(ctx, vault, all); err != nil {
			s.Log.Error("rotation", "vault", vault.Name, "error", err)
		}
		for _, k := range all {
			if k.Deleted == nil || now.Before(k.Deleted.Purge) {
				continue
			}
			err := s.Backend.Update(ctx, k.ID, func(k *keystore.Key) (*keystore.Key, error) {
				if k == nil || k.Deleted == nil || now.Before(k.Deleted.Purge) {
					return k, nil
				}
				return destroyed(k), nil
			})
			if err != nil {
				return fmt.Errorf("destroying %s: %w", k.ID, err)
			}
		}
	}
	return failed
}

func (c *call) random() (any, error) {
	if err := c.may("read", ""); err != nil {
		return nil, err
	}
	var in struct {
		Count int `json:"count"`
	}
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	if in.Count < 1 || in.Count > 128 {
		return nil, badParameter("count is 1 to 128")
	}
	b := make([]byte, in.Count)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return map[string]string{"value": encode(b)}, nil
}
