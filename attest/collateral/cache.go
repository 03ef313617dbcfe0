package collateral

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
)

// Cache gives endorsements from memory, else from its folder, else from the services. It may be used from many
// goroutines; each endorsement is asked for once at a time.
type Cache struct {
	o                             Options
	client                        *http.Client
	amd, intel, intelCertificates *service
	folder                        *folder

	mu       sync.Mutex
	entries  map[ID]*entry
	failures map[ID]*failure
	flights  map[ID]*flight
	seen     map[ID]mark
	parsed   map[parsedKey]parsedValue // dcap.go
}

// failure is remembered, so that a service that is down, or has none, is not asked at each request.
type failure struct {
	err   error
	until time.Time
	count int
}

// flight is one fetch that several callers wait for.
type flight struct {
	done chan struct{}
	e    *entry
	err  error
}

// Open makes a cache and reads what was seen before from its folder.
func Open(o Options) (*Cache, error) {
	c := &Cache{o: o.complete(), entries: map[ID]*entry{}, failures: map[ID]*failure{}, flights: map[ID]*flight{}, seen: map[ID]mark{}, parsed: map[parsedKey]parsedValue{}}
	c.client = &http.Client{Transport: c.o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, s := range []struct {
		to       **service
		name     string
		base     string
		interval time.Duration
	}{
		{&c.amd, "AMD's key distribution service", o.AMD, AMDInterval},
		{&c.intel, "Intel's provisioning certification service", o.Intel, intelPause},
		{&c.intelCertificates, "Intel's certificate service", o.IntelCertificates, intelPause},
	} {
		if s.base == "" {
			continue
		}
		u, err := parseBase(s.base)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		*s.to = &service{name: s.name, base: u, interval: s.interval}
	}
	var err error
	if c.folder, err = openFolder(o.Dir); err != nil {
		return nil, err
	}
	c.seen, err = c.folder.readSeen()
	return c, err
}

// Get gives one endorsement that holds now, or an "unavailable".
func (c *Cache) get(ctx context.Context, id ID) (*entry, error) {
	now := c.o.Now()
	c.mu.Lock()
	if e := c.entries[id]; e != nil && e.holds(now) == nil {
		c.mu.Unlock()
		return e, nil
	}
	f := c.flights[id]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[id] = f
		// The work goes on when this caller leaves: others may wait for it too. Time and turns bound it.
		go c.fly(context.WithoutCancel(ctx), id, f, false)
	}
	c.mu.Unlock()
	return f.wait(ctx, id)
}

func (f *flight) wait(ctx context.Context, id ID) (*entry, error) {
	select {
	case <-f.done:
		return f.e, f.err
	case <-ctx.Done():
		return nil, evidence.Refuse(evidence.CodeUnavailable, id.String(), ctx.Err().Error(), "an answer in time")
	}
}

// fly loads or fetches an endorsement and tells all who wait.
func (c *Cache) fly(ctx context.Context, id ID, f *flight, renew bool) {
	defer func() {
		c.mu.Lock()
		delete(c.flights, id)
		c.mu.Unlock()
		close(f.done)
	}()
	var stale error
	if !renew {
		f.e, stale = c.load(ctx, id)
		if f.e != nil {
			return
		}
	}
	c.mu.Lock()
	known := c.failures[id]
	c.mu.Unlock()
	if known != nil && c.o.Now().Before(known.until) && !renew {
		f.err = known.err
		return
	}
	f.e, f.err = c.renew(ctx, id)
	if f.err != nil && stale != nil && evidence.CodeOf(f.err) == evidence.CodeUnavailable {
		f.err = stale // says more: there was one, and why it does not count
	}
}

// load takes an endorsement from the folder. An error says what is wrong with the one that is there.
func (c *Cache) load(ctx context.Context, id ID) (*entry, error) {
	raw, issuers, err := c.folder.read(id)
	if err != nil || raw == nil {
		return nil, err
	}
	e, err := c.checker(ctx).make(id, raw, issuers)
	if err != nil {
		return nil, fmt.Errorf("in the folder: %w", err)
	}
	if err := e.holds(c.o.Now()); err != nil {
		return nil, err
	}
	if err := c.keep(e, false); err != nil {
		return nil, err
	}
	return e, nil
}

// renew fetches an endorsement, checks it, and keeps it.
func (c *Cache) renew(ctx context.Context, id ID) (*entry, error) {
	e, err := func() (*entry, error) {
		raw, issuers, err := c.fetch(ctx, id)
		if err != nil {
			return nil, err
		}
		e, err := c.checker(ctx).make(id, raw, issuers)
		if err != nil {
			return nil, fmt.Errorf("what the service gave: %w", err)
		}
		if err := e.holds(c.o.Now()); err != nil {
			return nil, err
		}
		return e, c.keep(e, true)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.failures, id)
		return e, nil
	}
	c.fail(id, err)
	return nil, err
}

// fail remembers a failure; the caller holds the lock.
func (c *Cache) fail(id ID, err error) {
	f := c.failures[id]
	if f == nil {
		if len(c.failures) >= maxFailures {
			for other := range c.failures {
				delete(c.failures, other)
				break
			}
		}
		f = &failure{}
		c.failures[id] = f
	}
	d := missingFor
	if !errors.Is(err, errMissing) {
		d = min(downFor<<min(f.count, 8), downAtMost)
	}
	f.count++
	f.err, f.until = err, c.o.Now().Add(d)
}

// keep puts a checked endorsement in memory, and in the folder where it is new, unless a newer one was seen.
func (c *Cache) keep(e *entry, store bool) error {
	e.refresh = c.next(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.id.changes() {
		seen, there := c.seen[e.id]
		if there {
			if err := e.mark.follows(e.id, seen); err != nil {
				return err
			}
		}
		if !there || seen.follows(e.id, e.mark) != nil {
			c.seen[e.id] = e.mark
			// Before the bytes themselves: what was seen once counts also where the rest is lost.
			if err := c.folder.writeSeen(c.seen); err != nil {
				return err
			}
		}
	}
	if store {
		if err := c.folder.write(e); err != nil {
			return err
		}
	}
	if len(c.entries) >= maxKept {
		for other := range c.entries {
			delete(c.entries, other)
			break
		}
	}
	c.entries[e.id] = e
	return nil
}

// next is when to look for a newer version: within a day, well before the end, and not at the same time as everybody.
func (c *Cache) next(e *entry) time.Time {
	if !e.id.changes() {
		return time.Time{}
	}
	now := c.o.Now()
	life := min(24*time.Hour, e.until.Sub(now)*2/3)
	return now.Add(time.Duration(float64(life) * (0.75 + 0.25*c.o.Jitter())))
}

// checker checks by the authorities that this cache can have.
func (c *Cache) checker(ctx context.Context) checker {
	return checker{roots: c.o.Roots, at: c.o.Now(), authorities: func(of ID) (*entry, error) {
		text := KindAuthorities + "/" + of.part(1) + "/"
		switch of.Kind() {
		case KindRootCRL:
			return c.intelRoot(ctx)
		case KindVLEK:
			text += KindVLEK
		case KindCRL:
			text += of.part(2)
		default:
			text += KindVCEK
		}
		id, err := ParseID(text)
		if err != nil {
			return nil, err
		}
		return c.get(ctx, id)
	}}
}

// intelRoot finds any endorsement that came with Intel's root, for the list that comes without.
func (c *Cache) intelRoot(ctx context.Context) (*entry, error) {
	c.mu.Lock()
	for id, e := range c.entries {
		if id.Kind() == KindPCKCRL || id.Kind() == KindTCB || id.Kind() == KindQE {
			c.mu.Unlock()
			return e, nil
		}
	}
	c.mu.Unlock()
	for _, text := range []string{KindPCKCRL + "/platform", KindPCKCRL + "/processor"} {
		if raw, _, err := c.folder.read(ID{text}); err == nil && raw != nil {
			return c.get(ctx, ID{text})
		}
	}
	return c.get(ctx, ID{KindPCKCRL + "/platform"})
}

// Refresh renews what is due, and gives all that went wrong. What is in use stays in use until its date.
func (c *Cache) Refresh(ctx context.Context) error {
	now := c.o.Now()
	var due []ID
	c.mu.Lock()
	for id, e := range c.entries {
		f := c.failures[id]
		if !e.refresh.IsZero() && !now.Before(e.refresh) && (f == nil || !now.Before(f.until)) {
			due = append(due, id)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, id := range due {
		if _, err := c.request(id); err != nil {
			continue // nobody to ask: the folder is all there is
		}
		if err := c.Renew(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// Renew fetches an endorsement also where one is at hand.
func (c *Cache) Renew(ctx context.Context, id ID) error {
	c.mu.Lock()
	f := c.flights[id]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[id] = f
		go c.fly(context.WithoutCancel(ctx), id, f, true)
	}
	c.mu.Unlock()
	_, err := f.wait(ctx, id)
	return err
}

// Prefetch has endorsements at hand before they are needed. It gives all that went wrong.
func (c *Cache) Prefetch(ctx context.Context, ids ...ID) error {
	var errs []error
	for _, id := range ids {
		if _, err := c.get(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// Run refreshes every minute until the context ends. report is told of what went wrong; it may be nil.
func (c *Cache) Run(ctx context.Context, report func(error)) {
	for c.o.Wait(ctx, time.Minute+time.Duration(c.o.Jitter()*float64(time.Second))) == nil {
		if err := c.Refresh(ctx); err != nil && report != nil && ctx.Err() == nil {
			report(err)
		}
	}
}
