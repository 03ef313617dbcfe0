package challenge

import (
	"context"
	"sync"
	"time"
)

// Memory keeps nonces in this process, for a service of one replica. A restart forgets them: clients ask again.
type Memory struct {
	mu    sync.Mutex
	ids   map[string]time.Time
	order []entry // by expiry, as the lives of all nonces are the same
}

type entry struct {
	id      string
	expires time.Time
}

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{ids: map[string]time.Time{}} }

// Put keeps an id, and forgets those that have expired.
func (m *Memory) Put(_ context.Context, id string, expires, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := 0
	for gone < len(m.order) && !now.Before(m.order[gone].expires) {
		delete(m.ids, m.order[gone].id)
		gone++
	}
	m.order = append(m.order[gone:], entry{id, expires})
	m.ids[id] = expires
	return nil
}

// Take removes an id.
func (m *Memory) Take(_ context.Context, id string, now time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	expires, there := m.ids[id]
	delete(m.ids, id)
	return there && now.Before(expires), nil
}
