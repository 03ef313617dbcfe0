// Package policystore keeps the policies of one issuer, one per attestation type, in one JSON file.
package policystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/attest/policysign"
	"cloister.dev/cloister/internal/failpoint"
)

var afterPolicies = failpoint.New("attest/policies")

// Policy is a stored policy: the JWS as it was sent, and its text.
type Policy struct {
	JWS  string    `json:"jws"`
	Text string    `json:"text"`
	By   string    `json:"by"` // object id of who set it
	Time time.Time `json:"time"`

	signed bool // read from the JWS once: requests ask for it
}

// Signed tells whether the JWS is a signed one. Who signed was judged when the policy was set.
func (p Policy) Signed() bool { return p.signed }

func (p Policy) read() Policy {
	doc, err := policysign.Read(p.JWS)
	p.signed = err == nil && doc.Signed
	return p
}

// Store is the file's content in memory. The file is replaced whole, so a crash leaves the old or the new one.
type Store struct {
	mu       sync.RWMutex
	path     string
	policies map[string]Policy
	compiled sync.Map // attestation type to *policy.Policy, the last one used
}

// Open reads the file; a missing file holds no policies, an unreadable one is an error.
func Open(path string) (*Store, error) {
	s := &Store{path: path, policies: map[string]Policy{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &s.policies); err != nil {
		return nil, fmt.Errorf("policies %s: %w", path, err)
	}
	if s.policies == nil {
		return nil, fmt.Errorf("policies %s: null, want an object", path)
	}
	for kind, p := range s.policies {
		s.policies[kind] = p.read()
	}
	return s, nil
}

// Compiled parses a policy's text, once for as long as the attestation type keeps it.
func (s *Store) Compiled(kind, text string) (*policy.Policy, error) {
	if have, ok := s.compiled.Load(kind); ok && have.(*policy.Policy).Text() == text {
		return have.(*policy.Policy), nil
	}
	p, err := policy.Parse(text)
	if err == nil {
		s.compiled.Store(kind, p)
	}
	return p, err
}

// Get finds the policy of an attestation type.
func (s *Store) Get(kind string) (Policy, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.policies[kind]
	return p, ok
}

// Set stores a policy durably. Before the new file is in place, before is called under the lock: an error
// from it leaves everything as it was.
func (s *Store) Set(kind string, p Policy, before func() error) error {
	return s.change(func(m map[string]Policy) { m[kind] = p.read() }, before)
}

// Reset removes a policy durably; see Set.
func (s *Store) Reset(kind string, before func() error) error {
	return s.change(func(m map[string]Policy) { delete(m, kind) }, before)
}

func (s *Store) change(apply func(map[string]Policy), before func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.policies)
	apply(next)
	raw, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	if err := before(); err != nil {
		return err
	}
	if err := replace(s.path, raw); err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	afterPolicies.Hit()
	s.policies = next
	return nil
}

func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
