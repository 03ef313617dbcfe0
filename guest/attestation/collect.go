// Package attestation proves a running guest to a verifier: hardware report, vTPM quote, boot log, and the SSH host key.
package attestation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/vtpm"
	"cloister.dev/cloister/guest/tpm"
)

// quotedPCRs are what a quote is about.
var quotedPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// The platform makes a new report when its last one is older than about two seconds.
const (
	reportWait  = 15 * time.Second
	reportEvery = 500 * time.Millisecond
	quoteTries  = 3
)

// Guest is where a guest's evidence comes from.
type Guest struct {
	TPM      transport.TPM
	HostKey  func() ([]byte, error)                    // SSH host key, wire format
	EventLog func() ([]byte, error)                    // TCG log, raw
	Chain    func(ctx context.Context) (string, error) // PEM: leaf, intermediate, root
	SoftRoot string                                    // hex SHA-256 of the software root's public key in the signed command line; "" where there is none
	Now      func() time.Time
	Wait     func(ctx context.Context, d time.Duration) error
}

// Evidence is a bundle with the parts that the verifier's protocol wants apart.
type Evidence struct {
	Bundle bundle.Bundle
	Report *hcl.Report
	PCRs   tpm.PCRs
}

// Collect gets evidence that answers a challenge.
func (g Guest) Collect(ctx context.Context, challenge []byte) (*Evidence, error) {
	if len(challenge) == 0 {
		return nil, evidence.Refuse(evidence.CodeBinding, "challenge", "none", "a nonce of the verifier")
	}
	hostKey, err := g.HostKey()
	if err != nil {
		return nil, fmt.Errorf("reading the SSH host key: %w", err)
	}
	log, err := g.EventLog()
	if err != nil {
		return nil, fmt.Errorf("reading the boot log: %w", err)
	}
	_, claims, _, err := g.report()
	if err != nil {
		return nil, err
	}
	dev, err := bind(g.TPM, claims)
	if err != nil {
		return nil, err
	}
	raw, report, err := g.reportOf(ctx, dev, bundle.UserData(hostKey))
	if err != nil {
		return nil, err
	}
	chain, err := g.Chain(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkChain(report.Hardware, chain, g.SoftRoot, g.Now()); err != nil {
		return nil, err
	}
	quote, pcrs, err := quoteOf(dev, vtpm.NonceFor(challenge))
	if err != nil {
		return nil, err
	}
	certificate, err := tpm.ReadNV(g.TPM, tpm.NVAKCert)
	if err != nil {
		certificate = nil // some platforms have none: the AK counts by its place in the claims
	}
	b := bundle.Bundle{
		Version: bundle.Version, HCLReport: raw, Chain: chain, Quote: quote.Message, Signature: quote.Signature,
		AKPublic: dev.AKPublic(), AKCertificate: derOf(certificate), PCRs: map[string]string{}, EventLog: log, Nonce: challenge,
		SSHHostKey: hostKey,
	}
	for n, v := range pcrs {
		b.PCRs[strconv.Itoa(n)] = hex.EncodeToString(v[:])
	}
	return &Evidence{Bundle: b, Report: report, PCRs: pcrs}, nil
}

func (g Guest) report() ([]byte, *hcl.RuntimeClaims, *hcl.Report, error) {
	raw, err := tpm.ReadNV(g.TPM, tpm.NVHCLReport)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := hcl.Parse(raw)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("reading the HCL report: %w", err)
	}
	if err := r.CheckBinding(); err != nil {
		return nil, nil, nil, fmt.Errorf("checking the HCL report: %w", err)
	}
	claims, err := hcl.ParseClaims(r.Claims)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("reading the runtime claims: %w", err)
	}
	return raw, claims, r, nil
}

func bind(t transport.TPM, claims *hcl.RuntimeClaims) (*tpm.Device, error) {
	ek, err := claims.RSAKey(hcl.KeyEK)
	if err != nil {
		return nil, err
	}
	ak, err := claims.RSAKey(hcl.KeyAK)
	if err != nil {
		return nil, err
	}
	return tpm.Bind(t, ek, ak)
}

// reportOf puts user data into the report, and reads reports until one has them.
func (g Guest) reportOf(ctx context.Context, dev *tpm.Device, data [64]byte) ([]byte, *hcl.Report, error) {
	want := hex.EncodeToString(data[:])
	deadline := g.Now().Add(reportWait)
	written := false
	for {
		raw, claims, report, err := g.report()
		if err != nil {
			return nil, nil, err
		}
		if strings.EqualFold(claims.UserData, want) {
			return raw, report, nil
		}
		if !written {
			if err := dev.WriteUserData(data); err != nil {
				return nil, nil, err
			}
			written = true
			continue
		}
		if g.Now().After(deadline) {
			return nil, nil, evidence.Refuse(evidence.CodeUnavailable, "HCL report", "user data "+claims.UserData, want)
		}
		if err := g.Wait(ctx, reportEvery); err != nil {
			return nil, nil, err
		}
	}
}

// quoteOf quotes, and reads the PCRs that the quote is about. Something may extend a PCR in between: then again.
func quoteOf(dev *tpm.Device, nonce []byte) (tpm.Quote, tpm.PCRs, error) {
	for range quoteTries {
		q, err := dev.Quote(nonce, quotedPCRs...)
		if err != nil {
			return q, nil, err
		}
		pcrs, err := dev.ReadPCRs(quotedPCRs...)
		if err != nil {
			return q, nil, err
		}
		h := sha256.New()
		for _, n := range quotedPCRs {
			v := pcrs[n]
			h.Write(v[:])
		}
		if bytes.HasSuffix(q.Message, h.Sum(nil)) { // pcrDigest ends a quote
			return q, pcrs, nil
		}
	}
	return tpm.Quote{}, nil, evidence.Refuse(evidence.CodeUnavailable, "quote", "PCRs change all the time", "PCRs that stay")
}

// derOf cuts the zeros that follow a certificate in its NV index.
func derOf(nv []byte) []byte {
	if len(nv) < 4 || nv[0] != 0x30 || nv[1] != 0x82 {
		return nil // every certificate of ours is a SEQUENCE of 256 to 65535 bytes
	}
	if n := 4 + int(nv[2])<<8 + int(nv[3]); n <= len(nv) {
		return nv[:n]
	}
	return nil
}

// Ready tells whether the vTPM answers and has the keys of its report.
func Ready(t transport.TPM) error {
	_, claims, _, err := Guest{TPM: t}.report()
	if err != nil {
		return err
	}
	_, err = bind(t, claims)
	return err
}
