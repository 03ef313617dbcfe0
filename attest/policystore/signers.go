package policystore

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"cloister.dev/cloister/internal/failpoint"
)

var afterSigners = failpoint.New("attest/policy-signers")

// Signers are the certificates whose keys may sign an issuer's policies, in one JSON file: a list of DER in base64.
type Signers struct {
	mu    sync.RWMutex
	path  string
	certs []*x509.Certificate
}

// OpenSigners reads the file, or makes it from the certificates that the configuration names. From then on the file counts.
func OpenSigners(path string, first []*x509.Certificate) (*Signers, error) {
	s := &Signers{path: path}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if len(first) == 0 {
			return nil, errors.New("policy signers: none, and an isolated issuer can't be without one")
		}
		return s, s.write(slices.Clone(first))
	}
	if err != nil {
		return nil, err
	}
	var list [][]byte
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("policy signers %s: %w", path, err)
	}
	for _, der := range list {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("policy signers %s: %w", path, err)
		}
		s.certs = append(s.certs, cert)
	}
	if len(s.certs) == 0 {
		return nil, fmt.Errorf("policy signers %s: none", path)
	}
	return s, nil
}

// List is the certificates now.
func (s *Signers) List() []*x509.Certificate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.certs)
}

// Change replaces the list durably by what change makes of it. Before the new file is in place, before is called under the
// lock: an error from it leaves everything as it was. A change that changes nothing writes nothing.
func (s *Signers) Change(change func([]*x509.Certificate) ([]*x509.Certificate, error), before func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := change(slices.Clone(s.certs))
	if err != nil {
		return err
	}
	if slices.EqualFunc(next, s.certs, (*x509.Certificate).Equal) {
		return nil
	}
	if err := before(); err != nil {
		return err
	}
	return s.write(next)
}

func (s *Signers) write(certs []*x509.Certificate) error {
	list := make([][]byte, len(certs))
	for i, c := range certs {
		list[i] = c.Raw
	}
	raw, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	if err := replace(s.path, raw); err != nil {
		return fmt.Errorf("policy signers: %w", err)
	}
	afterSigners.Hit()
	s.certs = certs
	return nil
}
