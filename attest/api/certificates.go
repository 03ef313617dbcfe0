package api

import (
	"crypto/sha1" // Azure names certificates by this thumbprint; nothing is decided by it
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"

	"cloister.dev/cloister/attest/policysign"
	"cloister.dev/cloister/attest/translog"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
)

// The certificates whose keys may sign an isolated issuer's policies. The role alone changes none: a signer that counts must
// have signed the change.

// maxSigners bounds the list.
const maxSigners = 64

func (p *Provider) certificatesRoute(method, path string) (string, handler) {
	switch {
	case method == http.MethodGet && path == "certificates":
		return "certificates get", p.certificatesCall(actionRead, p.listSigners)
	case method == http.MethodPost && path == "certificates:add":
		return "certificates add", p.certificatesCall(actionWrite, p.addSigner)
	case method == http.MethodPost && path == "certificates:remove":
		return "certificates remove", p.certificatesCall(actionWrite, p.removeSigner)
	}
	return "other", nil
}

type certificatesHandler func(s *Server, who *identity.Principal, body string) (map[string]any, error)

// certificatesCall is managed, for issuers that have policy signers.
func (p *Provider) certificatesCall(action string, h certificatesHandler) handler {
	return p.managed(action, func(s *Server, who *identity.Principal, body string) (map[string]any, error) {
		if p.SignerList == nil {
			return nil, invalidOperation{evidence.Refuse(evidence.CodeUnsupported, "trust mode", string(p.TrustMode), string(TrustIsolated)+": only an isolated issuer has policy signers")}
		}
		return h(s, who, body)
	})
}

func (p *Provider) listSigners(_ *Server, _ *identity.Principal, _ string) (map[string]any, error) {
	keys := []any{}
	for _, c := range p.SignerList.List() {
		keys = append(keys, policysign.JWK(c))
	}
	return map[string]any{"x-ms-policy-certificates": map[string]any{"keys": keys}}, nil
}

func (p *Provider) addSigner(s *Server, who *identity.Principal, body string) (map[string]any, error) {
	return p.changeSigners(s, who, body, "policy-signer-added", "IsPresent", func(list []*x509.Certificate, c *x509.Certificate) ([]*x509.Certificate, error) {
		if slices.ContainsFunc(list, c.Equal) {
			return list, nil
		}
		if len(list) >= maxSigners {
			return nil, evidence.Refuse(evidence.CodeParse, "policy signers", "one more", fmt.Sprintf("at most %d", maxSigners))
		}
		return append(list, c), nil
	})
}

func (p *Provider) removeSigner(s *Server, who *identity.Principal, body string) (map[string]any, error) {
	return p.changeSigners(s, who, body, "policy-signer-removed", "IsAbsent", func(list []*x509.Certificate, c *x509.Certificate) ([]*x509.Certificate, error) {
		next := slices.DeleteFunc(slices.Clone(list), c.Equal)
		if len(next) == 0 {
			return nil, evidence.Refuse(evidence.CodeParse, "policy signers", "the last one removed", "another one to be there first")
		}
		return next, nil
	})
}

func (p *Provider) changeSigners(s *Server, who *identity.Principal, body, event, result string, change func([]*x509.Certificate, *x509.Certificate) ([]*x509.Certificate, error)) (map[string]any, error) {
	doc, err := policysign.Read(body)
	if err != nil {
		return nil, err
	}
	e := translog.Entry{Time: s.now().UTC(), Event: event, Issuer: p.Issuer.URL(), Caller: who.ObjectID}
	if err := doc.Verify(p.SignerList.List(), s.now()); err != nil {
		return nil, p.policyRefused(e, err)
	}
	cert, err := doc.Certificate()
	if err != nil {
		return nil, p.policyRefused(e, err)
	}
	e.Detail = map[string]string{"thumbprint": thumbprint(cert), "signedBy": thumbprint(doc.Signer())}
	err = p.SignerList.Change(func(list []*x509.Certificate) ([]*x509.Certificate, error) { return change(list, cert) }, func() error { return p.Log.Append(e) })
	if err != nil {
		return nil, err
	}
	s.log.Info("policy signers changed", "event", event, "issuer", p.Issuer.URL(), "certificate", thumbprint(cert), "by", who.ObjectID)
	return map[string]any{"x-ms-certificate-thumbprint": thumbprint(cert), "x-ms-policycertificates-result": result}, nil
}

// thumbprint is SHA-1 of a certificate in hexadecimal digits, as Azure names certificates.
func thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return hex.EncodeToString(sum[:])
}
