package paravisor

import (
	"context"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

// transferKeyBits is the size of the key that the guest-state key is wrapped to. It lives for one session.
const transferKeyBits = 2048

// hostAttested is the proof that this paravisor runs on what the verifier accepts, bound to a key of its own.
type hostAttested struct {
	transfer *rsa.PrivateKey
	token    string
	root     string // what the token says that the evidence ends at
}

// attestHost makes a transfer key, has evidence made about it, and gets a token for the evidence.
func (s *Session) attestHost(ctx context.Context, in *input) (*hostAttested, error) {
	host := &hostAttested{}
	var claims, report, chain []byte
	err := s.step("evidence", func(detail map[string]string) (err error) {
		if host.transfer, err = rsa.GenerateKey(s.Rand, transferKeyBits); err != nil {
			return fmt.Errorf("making the transfer key: %w", err)
		}
		if claims, err = s.claims(in, [64]byte{}, hcl.JWKFromRSA(hcl.KeyTransfer, "encrypt", &host.transfer.PublicKey)); err != nil {
			return fmt.Errorf("writing the runtime claims: %w", err)
		}
		if report, chain, err = s.Hardware.Report(ctx, hcl.ReportData(claims)); err != nil {
			return fmt.Errorf("getting a hardware report: %w", err)
		}
		detail["initDataDigest"] = hex.EncodeToString(in.digest[:])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return host, s.step("token", func(detail map[string]string) error {
		nonce, err := s.randomHex()
		if err != nil {
			return err
		}
		if host.token, err = in.verifier.Token(ctx, HostEvidence{Report: report, ChainPEM: chain, RuntimeData: claims, InitialData: in.raw, Nonce: nonce}); err != nil {
			return fmt.Errorf("getting a token: %w", err)
		}
		t, err := s.checkToken(host, in, nonce)
		if err != nil {
			return fmt.Errorf("checking the token: %w", err)
		}
		host.root = text(t, "x-cloister-root")
		detail["issuer"], detail["tokenId"], detail["root"] = t.Issuer, t.ID, host.root
		return nil
	})
}

// checkToken believes a token only when a key pinned in the init data signed it, and it is about this
// transfer key and these init data. A host that plays the verifier fails at the first, one that replays
// somebody's token at the second.
func (s *Session) checkToken(host *hostAttested, in *input, nonce string) (*token.Token, error) {
	authority, err := token.NewAuthority(initdata.Service{URL: in.data.Attest.URL, SigningKeys: in.data.Attest.SigningKeys})
	if err != nil {
		return nil, err
	}
	t, err := token.Verify(host.token, []token.Authority{authority}, s.Now())
	if err != nil {
		return nil, err
	}
	if got := text(t, "x-ms-attestation-type"); got != "sevsnpvm" {
		return nil, evidence.Refuse(evidence.CodeBinding, "x-ms-attestation-type", got, "sevsnpvm")
	}
	if got, want := text(t, "x-ms-sevsnpvm-hostdata"), hex.EncodeToString(in.digest[:]); got != want {
		return nil, evidence.Refuse(evidence.CodeBinding, "x-ms-sevsnpvm-hostdata", got, want).By("the digest of the init data")
	}
	if got := text(t, "nonce"); subtle.ConstantTimeCompare([]byte(got), []byte(nonce)) != 1 {
		return nil, evidence.Refuse(evidence.CodeBinding, "nonce", fmt.Sprintf("%.80q", got), nonce).By("a token made for this question")
	}
	if root := text(t, "x-cloister-root"); root == "" {
		return nil, evidence.Refuse(evidence.CodeBinding, "x-cloister-root", "none", "the kind of root that the evidence ends at")
	}
	want := hcl.JWKFromRSA(hcl.KeyTransfer, "encrypt", &host.transfer.PublicKey)
	if got := tokenKey(t, hcl.KeyTransfer); subtle.ConstantTimeCompare([]byte(got), []byte(want.N)) != 1 {
		return nil, evidence.Refuse(evidence.CodeBinding, "x-ms-runtime.keys", "another "+hcl.KeyTransfer+", or none", "this session's")
	}
	return t, nil
}

func text(t *token.Token, claim string) string {
	s, _ := t.Claims[claim].(string)
	return s
}

// tokenKey is the modulus (b64url) of the only key of that name in the token's runtime claims, or "".
func tokenKey(t *token.Token, kid string) string {
	v, _ := t.Lookup("x-ms-runtime.keys")
	list, _ := v.([]any)
	found := ""
	for _, e := range list {
		m, _ := e.(map[string]any)
		if m["kid"] != kid {
			continue
		}
		if found != "" {
			return "" // two keys of one name: nobody can tell which the key keeper takes
		}
		found, _ = m["n"].(string)
	}
	return found
}

func (s *Session) randomHex() (string, error) {
	b := make([]byte, 32)
	if _, err := io.ReadFull(s.Rand, b); err != nil {
		return "", fmt.Errorf("making a nonce: %w", err)
	}
	return hex.EncodeToString(b), nil
}
