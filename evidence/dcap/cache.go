package dcap

import (
	"crypto/sha256"
	"sync"
)

// ChainCache remembers PCK chains whose three signatures were verified, by the SHA-256 of their text, so that the next quote
// of the same platform costs two verifications and not five. Names, dates, the pinned root and revocation
// are judged again at each use.
//
// The caller owns the value and may share it between goroutines and kinds of roots. The zero value holds up to 1024
// chains, of some 10 KiB each; a nil one remembers nothing.
type ChainCache struct {
	mu    sync.Mutex
	known map[[32]byte]*pckChain
	most  int
}

const (
	defaultChains = 1024
	maxChains     = 1 << 17
)

// NewChainCache makes room for up to n chains, at least 1. When it is full, any one is forgotten for a new one.
func NewChainCache(n int) *ChainCache { return &ChainCache{most: min(max(n, 1), maxChains)} }

// Len is how many chains are remembered.
func (m *ChainCache) Len() int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.known)
}

// chain gives the chain of a text whose signatures hold.
func (m *ChainCache) chain(text []byte) (*pckChain, error) {
	if m == nil {
		return parsePCKChain(text)
	}
	key := sha256.Sum256(text)
	m.mu.Lock()
	c := m.known[key]
	m.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := parsePCKChain(text) // outside the lock: two callers may do the same work, none waits for another
	if err != nil {
		return nil, err
	}
	return c, nil
}

// keep remembers a chain that was found to end at a root that counts: a stranger's chain takes no room.
func (m *ChainCache) keep(text []byte, c *pckChain) {
	if m == nil {
		return
	}
	key := sha256.Sum256(text)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[[32]byte]*pckChain{}
	}
	if _, ok := m.known[key]; ok {
		return
	}
	most := m.most
	if most == 0 {
		most = defaultChains
	}
	if len(m.known) >= most {
		for other := range m.known {
			delete(m.known, other)
			break
		}
	}
	m.known[key] = c
}
