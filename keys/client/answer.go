package client

import (
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

// Answer is the payload of a signed release, in Azure's form. Cloister is set for guest-state keys only.
type Answer struct {
	Request  AnswerRequest  `json:"request"`
	Response AnswerResponse `json:"response"`
	Cloister *GuestState    `json:"cloister,omitempty"`
}

// AnswerRequest repeats what was asked, so that an answer cannot be used for another question.
type AnswerRequest struct {
	APIVersion string `json:"api-version"`
	Enc        string `json:"enc"`
	KID        string `json:"kid"`
	Nonce      string `json:"nonce"`
}

// AnswerResponse holds the released key.
type AnswerResponse struct {
	Key ReleasedKey `json:"key"`
}

// ReleasedKey is a key bundle with the wrapped key in it.
type ReleasedKey struct {
	Key           ReleasedJWK       `json:"key"`
	Attributes    ReleasedAttrs     `json:"attributes"`
	Tags          map[string]string `json:"tags,omitempty"`
	ReleasePolicy *ReleasePolicy    `json:"release_policy,omitempty"`
}

// ReleasedJWK is the key itself: public members and the wrapped key.
type ReleasedJWK struct {
	KID    string   `json:"kid"`
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	N      string   `json:"n,omitempty"`
	E      string   `json:"e,omitempty"`
	Crv    string   `json:"crv,omitempty"`
	X      string   `json:"x,omitempty"`
	Y      string   `json:"y,omitempty"`
	KeyHSM string   `json:"key_hsm"` // base64url of KeyHSM
}

// ReleasedAttrs are the attributes of a released key.
type ReleasedAttrs struct {
	Enabled    bool `json:"enabled"`
	Exportable bool `json:"exportable"`
}

// ReleasePolicy is a release policy as Key Vault writes it.
type ReleasePolicy struct {
	ContentType string `json:"contentType,omitempty"`
	Data        string `json:"data"` // base64url JSON
	Immutable   bool   `json:"immutable"`
}

// KeyHSM is the wrapped key.
type KeyHSM struct {
	SchemaVersion string       `json:"schema_version"` // "1.0"
	Header        KeyHSMHeader `json:"header"`
	Ciphertext    string       `json:"ciphertext"` // base64url
}

// KeyHSMHeader says what the key is wrapped to.
type KeyHSMHeader struct {
	KID string `json:"kid"`
	Alg string `json:"alg"` // "dir"
	Enc string `json:"enc"`
}

// GuestState is what the key keeper says about the guest state that a released key opens.
type GuestState struct {
	VMID            string `json:"vmId"`
	Generation      uint64 `json:"generation"`
	Next            uint64 `json:"next,omitempty"`
	Session         string `json:"session"`
	Nonce           string `json:"nonce"`
	OperatorTrusted bool   `json:"operatorTrusted,omitempty"`
	Confirmed       bool   `json:"confirmed,omitempty"`
}

// maxAnswer bounds a signed answer, in bytes: it repeats the key's policy.
const maxAnswer = 512 << 10

// VerifyAnswer checks the signature of a compact JWS by one of the pinned keys, and gives its payload. Nothing in the
// header but the algorithm is read; certificates in it are for other clients.
func VerifyAnswer(compact string, signers []*rsa.PublicKey) ([]byte, error) {
	if len(compact) > maxAnswer || strings.Count(compact, ".") != 2 {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys", fmt.Sprintf("%d bytes", len(compact)), "a compact JWS")
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeChain, "answer of keys", err.Error(), "a compact JWS with RS256")
	}
	for _, pub := range signers {
		if payload, err := jws.Verify(pub); err == nil {
			return payload, nil
		}
	}
	return nil, evidence.Refuse(evidence.CodeChain, "answer of keys", "not signed by a pinned key", "a signature by a key pinned in the init data")
}

func parseSigners(pinned []initdata.SigningKey) ([]*rsa.PublicKey, error) {
	a, err := token.NewAuthority(initdata.Service{URL: "keys", SigningKeys: pinned})
	if err != nil {
		return nil, fmt.Errorf("signing keys of keys: %w", err)
	}
	out := make([]*rsa.PublicKey, 0, len(a.Keys))
	for _, k := range a.Keys {
		out = append(out, k)
	}
	return out, nil
}

func parseAnswer(payload []byte) (*Answer, error) {
	var a Answer
	if err := json.Unmarshal(payload, &a); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys", err.Error(), "a release answer")
	}
	if a.Cloister == nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "answer of keys", "no member cloister", "an answer about a guest state")
	}
	return &a, nil
}
