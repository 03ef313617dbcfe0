package appraise

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/vtpm"
)

// ReplyKeyID names the ephemeral key in tokens.
const ReplyKeyID = "TpmEphemeralEncryptionKey"

// requiredPCRs are the registers that a quote must cover: those that Azure's claims are made of, and that its clients
// send for Linux.
var requiredPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7}

// Guest judges evidence of a running guest, from the hardware up: the report is genuine and about the
// claims, the claims name the attestation key, the key signed the quote, the quote covers the registers,
// and the boot log replays to them.
func (v *Verifier) Guest(ctx context.Context, in *request.Guest, at time.Time) (*Result, error) {
	if !strings.EqualFold(in.OSType, "Linux") {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "OSType", in.OSType, "Linux").By("boot logs of Windows are not judged, so nothing could be said of its boot switches")
	}
	hardware, err := v.isolation(ctx, in, at)
	if err != nil {
		return nil, err
	}
	named, err := hcl.ParseClaims(in.Runtime.Raw)
	if err != nil {
		return nil, err
	}
	ak, err := sameKey(named, hcl.KeyAK, in.AKPublic, akAttributes)
	if err != nil {
		return nil, err
	}
	reply, bound, err := quoted(in, ak)
	if err != nil {
		return nil, err
	}
	boot, err := bootState(in.EventLog, in.PCRs)
	if err != nil {
		return nil, err
	}
	id, err := vmID(in.Runtime)
	if err != nil {
		return nil, err
	}
	out := &Result{root: hardware.root, reply: reply, carries: quoteCarries(bound), claims: claims.Guest{
		PCRs: slices.Sorted(maps.Keys(in.PCRs)), SecureBoot: boot.SecureBoot, DefaultKeys: boot.DefaultKeys, DB: boot.DB, DBX: boot.DBX,
		OSType: in.OSType, OSDistro: in.OSDistro, OSBuild: in.OSBuild, OSVersionMajor: in.OSVersionMajor, OSVersionMinor: in.OSVersionMinor, VMID: id,
	}.Claims()}
	out.claims[claims.IsolationTEE] = hardware.claims
	out.claims[claims.Runtime] = runtimeOf(in, reply)
	for _, n := range claims.CarriedPCRs {
		value, quoted := in.PCRs[n]
		if !quoted {
			continue
		}
		out.claims[claims.PCR(n)] = hex.EncodeToString(value[:])
	}
	claims.Root(out.claims, out.root)
	return out, nil
}

// isolation judges the hardware's evidence of a guest.
func (v *Verifier) isolation(ctx context.Context, in *request.Guest, at time.Time) (*judged, error) {
	if in.TDQuote != nil {
		return v.td(ctx, in.TDQuote, in.Runtime, in.InitTime, at)
	}
	return v.snp(ctx, in.Report, in.Chain, in.Runtime, in.InitTime, at)
}

// quoted checks the quote and the ephemeral key. A quote from an earlier session is refused here: its
// qualifying data must be the digest of the caller's nonce. Azure's clients leave it empty; then the
// answer must be encrypted to a key that only this TPM can use, while its registers stay as quoted. The nonce comes
// back where the quote is bound to it.
func quoted(in *request.Guest, ak *rsa.PublicKey) (reply *ReplyKey, bound []byte, err error) {
	for _, n := range requiredPCRs {
		if value, ok := in.PCRs[n]; !ok {
			return nil, nil, evidence.Refuse(evidence.CodeBinding, "PcrSet", fmt.Sprintf("no register %d", n), fmt.Sprint("at least ", requiredPCRs))
		} else if (n == 0 || n == 4 || n == 7) && value == [32]byte{} {
			return nil, nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCR %d", n), "zeros", "what the firmware measured")
		}
	}
	quote, err := vtpm.OpenQuote(in.Quote, in.QuoteSignature, ak)
	if err != nil {
		return nil, nil, err
	}
	if err := quote.CheckPCRs(in.PCRs); err != nil {
		return nil, nil, err
	}
	nonce, err := payloadNonce(in)
	if err != nil {
		return nil, nil, err
	}
	got := quote.ExtraData
	want := sha256.Sum256(nonce)
	fresh := len(nonce) > 0 && subtle.ConstantTimeCompare(got, want[:]) == 1
	if in.EncKeyPublic == nil {
		if !fresh {
			return nil, nil, evidence.Refuse(evidence.CodeBinding, "quote qualifying data", hex.EncodeToString(got), "SHA-256 of ClientPayload.nonce").By("an answer in plain text needs a quote of this session")
		}
		return nil, nonce, nil
	}
	raw := len(nonce) > 0 && subtle.ConstantTimeCompare(got, nonce) == 1 // one client of Azure's does so
	if len(got) > 0 && !fresh && !raw {
		return nil, nil, evidence.Refuse(evidence.CodeBinding, "quote qualifying data", hex.EncodeToString(got), "nothing, ClientPayload.nonce, or its SHA-256")
	}
	key, err := ephemeral(in.EncKeyPublic, in.EncKeyCertify, in.EncKeySignature, ak, in.PCRs)
	if err != nil {
		return nil, nil, err
	}
	if !fresh && !raw {
		nonce = nil
	}
	return &ReplyKey{key}, nonce, nil
}

// payloadNonce is the caller's nonce; none is empty.
func payloadNonce(in *request.Guest) ([]byte, error) {
	s, ok := in.ClientPayload["nonce"].(string)
	if !ok {
		return nil, nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "=")))
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "ClientPayload.nonce", "no base64", "base64")
	}
	return raw, nil
}

// runtimeOf is the top-level x-ms-runtime: the caller's payload unchanged, and the ephemeral key.
func runtimeOf(in *request.Guest, reply *ReplyKey) map[string]any {
	payload := in.ClientPayload
	if payload == nil {
		payload = map[string]any{}
	}
	out := map[string]any{"client-payload": payload}
	if reply != nil {
		enc := base64.RawURLEncoding
		out["keys"] = []any{map[string]any{
			"kid": ReplyKeyID, "kty": "RSA", "key_ops": []any{"encrypt"},
			"n": enc.EncodeToString(reply.public.N.Bytes()), "e": enc.EncodeToString(big.NewInt(int64(reply.public.E)).Bytes()),
		}}
	}
	return out
}
