package paravisor

import (
	"context"
	"fmt"
	"sync"

	"cloister.dev/cloister/evidence"
)

// maxIdentity bounds an identity token, in bytes.
const maxIdentity = 64 << 10

// identityBox holds the VM's managed-identity token, which the host hands over and renews. It says who
// calls; alone it authorises nothing.
type identityBox struct {
	mu    sync.Mutex
	token string
	first chan struct{}
}

func newIdentityBox() *identityBox { return &identityBox{first: make(chan struct{})} }

func (b *identityBox) set(token string) error {
	if len(token) == 0 || len(token) > maxIdentity {
		return evidence.Refuse(evidence.CodeParse, "identity token", fmt.Sprintf("%d bytes", len(token)), fmt.Sprintf("1 to %d", maxIdentity))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token == "" {
		close(b.first)
	}
	b.token = token
	return nil
}

func (b *identityBox) wait(ctx context.Context) error {
	select {
	case <-b.first:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *identityBox) bearer(context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token == "" {
		return "", evidence.Refuse(evidence.CodeUnavailable, "identity token", "none", "the VM's managed-identity token")
	}
	return b.token, nil
}
