package sevsnp

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// Chains remembers chains whose three signatures were verified, so that the next report under the same certificates costs
// the verification of its own signature and not three of RSA besides. It remembers nothing else: the pinned root, names,
// dates, what each certificate may do and says, and the revocation lists are judged again at each use. A chain is known
// by the SHA-256 of its certificates' bytes.
//
// The caller owns the value and may share it between goroutines, and between kinds of roots. The zero value is not of use;
// a nil one remembers nothing.
type Chains struct {
	mu    sync.Mutex
	known map[[32]byte]struct{}
	most  int
}

// maxChains bounds what NewChains may be asked for; a chain takes about 50 bytes.
const maxChains = 1 << 20

// NewChains makes room for up to n chains, at least 1. When it is full, any one is forgotten for a new one.
func NewChains(n int) *Chains {
	return &Chains{known: map[[32]byte]struct{}{}, most: min(max(n, 1), maxChains)}
}

// Len is how many chains are remembered.
func (m *Chains) Len() int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.known)
}

func (m *Chains) holds(c Chain) bool {
	if m == nil {
		return false
	}
	key := chainKey(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.known[key]
	return ok
}

func (m *Chains) keep(c Chain) {
	if m == nil || m.most == 0 {
		return
	}
	key := chainKey(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.known[key]; !ok && len(m.known) >= m.most {
		for other := range m.known {
			delete(m.known, other)
			break
		}
	}
	m.known[key] = struct{}{}
}

// chainKey hashes the certificates' hashes, so that no two chains can be cut apart at different places.
func chainKey(c Chain) [32]byte {
	var all []byte
	for _, cert := range []*x509.Certificate{c.Leaf, c.Intermediate, c.Root} {
		sum := sha256.Sum256(cert.Raw)
		all = append(all, sum[:]...)
	}
	return sha256.Sum256(all)
}
