package keys

import (
	"crypto/rsa"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"cloister.dev/cloister/identity/provider"
	"cloister.dev/cloister/internal/pemkey"
)

// signIn is the embedded sign-in at its paths.
type signIn struct {
	http.Handler
	path string // /TENANT/
}

// signIn is nil where signing in is elsewhere.
func (c Config) signIn(now func() time.Time) (*signIn, error) {
	e := c.Identity.Embedded
	if e == nil {
		return nil, nil
	}
	raw, err := os.ReadFile(e.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("identity.embedded: %w", err)
	}
	key, err := pemkey.Parse[*rsa.PrivateKey](raw)
	clear(raw)
	if err != nil {
		return nil, fmt.Errorf("identity.embedded: %s: %w", e.KeyFile, err)
	}
	at := strings.LastIndex(c.Identity.SignIn, "/")
	p, err := provider.New(provider.Config{Authority: c.Identity.SignIn[:at], TenantID: c.Identity.SignIn[at+1:], Clients: e.Clients, Key: key, KeyID: e.KeyID, Now: now})
	if err != nil {
		return nil, fmt.Errorf("identity.embedded: %w", err)
	}
	return &signIn{p, c.Identity.SignIn[at:] + "/"}, nil
}

// serves tells its requests from those to vaults.
func (s *signIn) serves(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, s.path) }
