package attest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cloister.dev/cloister/attest/challenge"
	"cloister.dev/cloister/store"
)

// Challenges says how nonces are kept.
type Challenges struct {
	// Life is how long a nonce can be redeemed, 10s to 10m.
	Life string `json:"life"`
	// Max is how many unexpired ones each issuer hands out in this process.
	Max int `json:"max"`
	// Etcd shares them between replicas; absent: they are kept in this process, and a restart forgets them.
	Etcd *Etcd `json:"etcd,omitempty"`
}

// Etcd is a cluster of the verifier's own, reached with a client certificate.
type Etcd struct {
	Endpoints []string `json:"endpoints"` // https URLs
	CA        string   `json:"ca"`        // PEM files
	Cert      string   `json:"cert"`
	Key       string   `json:"key"`
}

// defaultChallenges hold where the configuration says nothing.
var defaultChallenges = Challenges{Life: "2m", Max: 10_000}

func (c *Challenges) validate() (mistakes []error) {
	if c == nil {
		return nil
	}
	life, err := time.ParseDuration(c.Life)
	if err != nil || life < challenge.MinLife || life > challenge.MaxLife {
		mistakes = append(mistakes, fmt.Errorf("challenges.life: %q, want %s to %s", c.Life, challenge.MinLife, challenge.MaxLife))
	}
	if c.Max < 1 || c.Max > challenge.MaxOpen {
		mistakes = append(mistakes, fmt.Errorf("challenges.max: %d, want 1 to %d", c.Max, challenge.MaxOpen))
	}
	if e := c.Etcd; e != nil && (len(e.Endpoints) == 0 || e.CA == "" || e.Cert == "" || e.Key == "") {
		mistakes = append(mistakes, fmt.Errorf("challenges.etcd: endpoints, ca, cert and key are all needed"))
	}
	return mistakes
}

// challengeStores makes a store for each issuer, and what ends them.
func (c *Challenges) stores(ctx context.Context) (open func(issuer string) challenge.Store, end func() error, err error) {
	if c.Etcd == nil {
		return func(string) challenge.Store { return challenge.NewMemory() }, func() error { return nil }, nil
	}
	pem, err := os.ReadFile(c.Etcd.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("challenges.etcd.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("challenges.etcd.ca: %s holds no certificate", c.Etcd.CA)
	}
	cert, err := tls.LoadX509KeyPair(c.Etcd.Cert, c.Etcd.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("challenges.etcd: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Etcd.Endpoints, DialTimeout: 10 * time.Second, Context: ctx,
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{cert}}})
	if err != nil {
		return nil, nil, fmt.Errorf("challenges.etcd: %w", err)
	}
	db := store.Open(client, "/cloister/attest")
	return func(issuer string) challenge.Store { return challenge.NewShared(db, issuer) }, client.Close, nil
}

// challenges are those of one issuer.
func (c *Challenges) challenges(s challenge.Store) (*challenge.Challenges, error) {
	life, err := time.ParseDuration(c.Life)
	if err != nil {
		return nil, err
	}
	return challenge.New(s, life, c.Max)
}
