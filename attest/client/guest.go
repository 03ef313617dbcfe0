package client

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Guest is evidence of a running guest: hardware report, vTPM quote, boot log and data of its own.
type Guest struct {
	OSType, OSDistro, OSBuild      string // plain text; the client encodes it
	OSVersionMajor, OSVersionMinor int
	EventLog                       []byte            // raw TCG log
	ClientPayload                  map[string][]byte // comes back in x-ms-runtime.client-payload; the caller's nonce goes here

	AKCertificate  []byte // DER, padding allowed; may be empty
	AKPublic       []byte // TPM2B_PUBLIC
	Quote          []byte // TPMS_ATTEST
	QuoteSignature []byte // raw RSA signature
	PCRs           map[int][32]byte

	Report        []byte // hardware report, 1184 bytes
	ChainPEM      []byte
	TDQuote       []byte // of a TD, in place of report and chain
	RuntimeClaims []byte // the HCL report's claims, exact bytes
	InitTimeData  []byte // nil: not sent

	// The ephemeral key that the answer is encrypted to. All empty: the answer comes in plain text over TLS.
	EncKeyPublic           []byte // TPM2B_PUBLIC
	EncKeyCertify          []byte // TPMS_ATTEST
	EncKeyCertifySignature []byte
	// Decrypt opens the inner key (RSAES-PKCS1-v1_5) with the ephemeral key, inside the TPM.
	Decrypt func(ctx context.Context, wrapped []byte) ([]byte, error)

	Challenge string // a nonce of Client.Challenge, which the quote carries; "": not sent
}

// AzureGuest gets a token for a running guest.
func (c *Client) AzureGuest(ctx context.Context, in Guest) (string, error) {
	if len(in.EncKeyPublic) > 0 && in.Decrypt == nil {
		return "", evidence.Refuse(evidence.CodeParse, "Guest.Decrypt", "nil", "a decrypter for the ephemeral key")
	}
	info, err := json.Marshal(in.wire())
	if err != nil {
		return "", err
	}
	var out WireToken
	body := map[string]string{"AttestationInfo": b64url(info)}
	if err := c.callWith(ctx, in.Challenge, http.MethodPost, "/attest/AzureGuest", VersionAzureGuest, body, &out); err != nil {
		return "", fmt.Errorf("attesting AzureGuest: %w", err)
	}
	if len(in.EncKeyPublic) == 0 {
		return out.Token, nil
	}
	return decrypt(ctx, out.Token, in.Decrypt)
}

func (in Guest) wire() WireGuest {
	text := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	proof, _ := json.Marshal(WireReport{SnpReport: b64url(in.Report), VcekCertChain: b64url(in.ChainPEM)}) // two texts always marshal
	w := WireGuest{
		Protocol: "2.0", OSType: text(in.OSType), OSDistro: text(in.OSDistro), OSBuild: text(in.OSBuild),
		OSVersionMajor: in.OSVersionMajor, OSVersionMinor: in.OSVersionMinor, TcgLogs: in.EventLog, ClientPayload: in.ClientPayload,
		TpmInfo: WireTPM{AikCert: in.AKCertificate, AikPub: in.AKPublic, PcrQuote: in.Quote, PcrSignature: in.QuoteSignature,
			EncKeyPub: in.EncKeyPublic, EncKeyCertifyInfo: in.EncKeyCertify, EncKeySignature: in.EncKeyCertifySignature},
		IsolationInfo: WireIsolation{Type: "SevSnp", Evidence: WireEvidence{Proof: proof, RunTimeData: in.RuntimeClaims, InitTimeData: in.InitTimeData}},
	}
	if len(in.TDQuote) > 0 {
		w.IsolationInfo.Type, w.IsolationInfo.Evidence.Proof = "Tdx", in.TDQuote
	}
	for n, digest := range in.PCRs {
		w.TpmInfo.PcrSet = append(w.TpmInfo.PcrSet, n)
		w.TpmInfo.PCRs = append(w.TpmInfo.PCRs, WirePCR{Index: n, Digest: digest[:]})
	}
	slices.Sort(w.TpmInfo.PcrSet)
	slices.SortFunc(w.TpmInfo.PCRs, func(a, b WirePCR) int { return a.Index - b.Index })
	return w
}

// decrypt opens an encrypted answer.
func decrypt(ctx context.Context, sealed string, open func(context.Context, []byte) ([]byte, error)) (string, error) {
	bad := func(got, want string) error {
		return evidence.Refuse(evidence.CodeParse, "encrypted token", got, want)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(sealed, "="))
	if err != nil {
		return "", bad("no base64url", "base64url of JSON")
	}
	var e WireEncrypted
	if err := json.Unmarshal(raw, &e); err != nil {
		return "", bad("no JSON", "base64url of JSON")
	}
	p := e.EncryptionParams
	switch {
	case p.Cipher != "AES" || p.BlockMode != "ChainingModeGCM" || p.KeySizeInBits != 256:
		return "", bad(fmt.Sprintf("%s %s %d", p.Cipher, p.BlockMode, p.KeySizeInBits), "AES ChainingModeGCM 256")
	case len(p.Iv) != 12 || len(e.AuthenticationData) != 16:
		return "", bad(fmt.Sprintf("iv of %d and tag of %d bytes", len(p.Iv), len(e.AuthenticationData)), "12 and 16")
	}
	key, err := open(ctx, e.EncryptedInnerKey)
	if err != nil {
		return "", fmt.Errorf("opening the token's key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil || len(key) != 32 {
		return "", bad(fmt.Sprintf("a key of %d bytes", len(key)), "32")
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	plain, err := gcm.Open(nil, p.Iv, append(slices.Clone(e.Jwt), e.AuthenticationData...), []byte(TransportAAD))
	if err != nil {
		return "", bad("a tag that does not fit", "a token encrypted to this key")
	}
	return string(plain), nil
}
