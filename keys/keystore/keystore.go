// Package keystore keeps keys, their policies and the generations of guest states.
//
// A Backend is a store of records and a maker and user of key material. The software backend keeps both in one
// encrypted file. With an HSM the material stays there and only records are kept; either way it is keys that
// enforces release policies, and a Backend lets key material out in one form only: wrapped by Export.
package keystore

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/keys/client/keywrap"
)

// ErrNotFound says that there is no such record.
var ErrNotFound = errors.New("no such key")

// VaultID names a vault of a tenant: every record is stored, and its material sealed, under both. Neither has case.
type VaultID struct {
	Tenant string `json:"tenant,omitempty"`
	Name   string `json:"name,omitempty"`
}

func (v VaultID) folded() string { return strings.ToLower(v.Tenant) + "/" + strings.ToLower(v.Name) }

func (v VaultID) String() string { return v.folded() }

// Same tells whether two ids name one vault.
func (v VaultID) Same(w VaultID) bool { return v.folded() == w.folded() }

// ID names a key. It has no case: it is lower-cased when used as a name.
type ID struct {
	Vault VaultID
	Name  string
}

func (id ID) String() string { return id.folded() }

func (id ID) folded() string { return id.Vault.folded() + "/" + strings.ToLower(id.Name) }

// Key is a key with all its versions, and what belongs to the key as a whole.
type Key struct {
	ID         ID                `json:"id"`
	Versions   []Version         `json:"versions"` // oldest first
	Exportable bool              `json:"exportable,omitempty"`
	Policy     *Policy           `json:"policy,omitempty"`     // set when Exportable
	GuestState *GuestState       `json:"guestState,omitempty"` // set for guest-state keys
	Customer   *CustomerKey      `json:"customer,omitempty"`   // set for guest-state keys under a customer's key; they have no material
	Serves     bool              `json:"serves,omitempty"`     // a customer's key that guest-state keys are under: it does nothing else any more
	Deleted    *Deleted          `json:"deleted,omitempty"`    // soft-deleted
	Destroyed  bool              `json:"destroyed,omitempty"`  // nothing but the name is left, so that it is never used again
	Extra      map[string][]byte `json:"extra,omitempty"`      // the service's own records
}

// Policy is a stored release policy: exact bytes, parsed again at each release.
type Policy struct {
	ContentType string `json:"contentType"`
	Data        []byte `json:"data"`
	Immutable   bool   `json:"immutable,omitempty"`
}

// Version is one version of a key.
type Version struct {
	ID        string            `json:"id"` // 32 hex digits
	Spec      Spec              `json:"spec"`
	Ops       []string          `json:"ops"`
	Enabled   bool              `json:"enabled"`
	NotBefore *time.Time        `json:"notBefore,omitempty"`
	Expires   *time.Time        `json:"expires,omitempty"`
	Created   time.Time         `json:"created"`
	Updated   time.Time         `json:"updated"`
	Tags      map[string]string `json:"tags,omitempty"`
	Material  Material          `json:"material"`
}

// Spec is the kind and size of a key.
type Spec struct {
	Kty  string `json:"kty"`            // RSA, EC or oct, each with or without -HSM
	Bits int    `json:"bits,omitempty"` // of RSA and oct
	Crv  string `json:"crv,omitempty"`  // of EC: P-256, P-384, P-521
}

// Family is the kind without the suffix that says where it is kept.
func (s Spec) Family() string { return strings.TrimSuffix(s.Kty, "-HSM") }

// Material is key material as its backend refers to it.
type Material struct {
	Handle []byte `json:"handle"`           // a sealed key, or a label inside an HSM; meaningless outside its backend
	Public []byte `json:"public,omitempty"` // SubjectPublicKeyInfo (DER) of RSA and EC
}

// Deleted says when a key was deleted and when it will be destroyed.
type Deleted struct {
	At    time.Time `json:"at"`
	Purge time.Time `json:"purge"`
}

// GuestState is what keys remembers about the guest state that a key opens.
type GuestState struct {
	Confirmed        uint64   `json:"confirmed"`
	ConfirmedSession string   `json:"confirmedSession,omitempty"`
	Pending          *Pending `json:"pending,omitempty"`
	OperatorTrusted  bool     `json:"operatorTrusted,omitempty"`
	// StoreEpoch is the epoch of the store in which the record was made, or last opened. An earlier one than the store's
	// means that the record came from a backup, and that what happened since is not known.
	StoreEpoch uint64    `json:"storeEpoch,omitempty"`
	Approval   *Approval `json:"approval,omitempty"`
}

// Approval is an owner's consent to opening one generation that would be refused. It serves once.
type Approval struct {
	Generation uint64    `json:"generation"`
	StoreEpoch uint64    `json:"storeEpoch"` // of the store when it was given; it ends with that epoch
	By         string    `json:"by"`         // object id
	At         time.Time `json:"at"`
}

// CustomerKey says which of the customer's keys a guest-state key is under: in any vault of the same tenant.
type CustomerKey struct {
	Vault    string   `json:"vault"`
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Latest   bool     `json:"latest,omitempty"` // follow new versions
	Identity string   `json:"identity"`         // whose role on the key counts: object id
	Envelope Envelope `json:"envelope"`
}

// Envelope is a guest-state key under a data key, and that under the customer's key.
type Envelope struct {
	Wrapped Sealed `json:"wrapped"`
	Data    []byte `json:"data"` // nonce of 12 bytes, AES-256-GCM
}

// Pending is the generation that was promised to the latest session.
type Pending struct {
	Generation uint64 `json:"generation"`
	Session    string `json:"session"` // 64 hex digits
}

// Address names the material of one version. Backends bind material to it.
type Address struct {
	Key     ID
	Version string
}

func (a Address) String() string { return a.Key.folded() + "/" + a.Version }

// Sealed is what Encrypt makes and Decrypt takes.
type Sealed struct {
	Ciphertext []byte `json:"ciphertext,omitempty"`
	IV         []byte `json:"iv,omitempty"`
	Tag        []byte `json:"tag,omitempty"`
	AAD        []byte `json:"aad,omitempty"`
}

// Change computes a new record from the old one (nil where there is none). It may change the copy it is given.
// Nil and no error removes the record; an error leaves everything as it was.
type Change func(old *Key) (*Key, error)

// Backend keeps records and key material.
//
// Update runs its change exactly once, while nobody else changes anything, and returns nil only when the result
// is durable. Records are authenticated: what was not written by this backend under its key is refused when read.
type Backend interface {
	Get(ctx context.Context, id ID) (*Key, error)
	List(ctx context.Context, vault VaultID) ([]*Key, error) // in order of name
	Update(ctx context.Context, id ID, change Change) error

	Generate(ctx context.Context, at Address, spec Spec) (Material, error)
	// Import takes key material in: PKCS #8 of RSA and EC, the bytes of an AES key.
	Import(ctx context.Context, at Address, spec Spec, plain []byte) (Material, error)
	Sign(ctx context.Context, at Address, m Material, alg string, digest []byte) ([]byte, error)
	Encrypt(ctx context.Context, at Address, m Material, alg string, plain []byte, s Sealed) (Sealed, error)
	Decrypt(ctx context.Context, at Address, m Material, alg string, s Sealed) ([]byte, error)
	Export(ctx context.Context, at Address, m Material, form keywrap.Form, kek *rsa.PublicKey) ([]byte, error)

	// Epoch tells how often the records were restored from a backup. It never goes back, and stays the same while open.
	Epoch() uint64
	Close() error
}

// Latest is the newest version.
func (k *Key) Latest() *Version {
	if len(k.Versions) == 0 {
		return nil
	}
	return &k.Versions[len(k.Versions)-1]
}

// Version finds a version; "" is the newest.
func (k *Key) Version(id string) *Version {
	if id == "" {
		return k.Latest()
	}
	for i := range k.Versions {
		if k.Versions[i].ID == id {
			return &k.Versions[i]
		}
	}
	return nil
}

// Clone copies a record so that changes to the copy don't reach the original.
func (k *Key) Clone() *Key {
	if k == nil {
		return nil
	}
	c := *k
	c.Versions = slices.Clone(k.Versions)
	for i := range c.Versions {
		v := &c.Versions[i]
		v.Ops, v.Tags = slices.Clone(v.Ops), maps.Clone(v.Tags)
		v.NotBefore, v.Expires = copyOf(v.NotBefore), copyOf(v.Expires)
		v.Material = Material{Handle: slices.Clone(v.Material.Handle), Public: slices.Clone(v.Material.Public)}
	}
	c.Policy, c.Deleted, c.GuestState, c.Customer = copyOf(k.Policy), copyOf(k.Deleted), copyOf(k.GuestState), copyOf(k.Customer)
	if c.Policy != nil {
		c.Policy.Data = slices.Clone(c.Policy.Data)
	}
	if c.GuestState != nil {
		c.GuestState.Pending, c.GuestState.Approval = copyOf(c.GuestState.Pending), copyOf(c.GuestState.Approval)
	}
	c.Extra = maps.Clone(k.Extra)
	return &c
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// notFound says which key is missing.
func notFound(id ID) error { return fmt.Errorf("%s: %w", id, ErrNotFound) }
