package collateral

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"

	"cloister.dev/cloister/evidence/strictjson"
)

// maxNesting bounds texts inside JSON inside texts.
const maxNesting = 4

// reader takes one file apart.
type reader struct {
	file  string
	items []Item
}

func (r *reader) add(i Item) error {
	if len(r.items) >= MaxItems {
		return refuse(r.file, "more", fmt.Sprintf("at most %d certificates, lists and documents", MaxItems))
	}
	i.File = r.file
	r.items = append(r.items, i)
	return nil
}

// read recognises bytes by how they begin.
func (r *reader) read(raw []byte, depth int) error {
	if depth > maxNesting {
		return refuse(r.file, "nested deeper than "+fmt.Sprint(maxNesting), known)
	}
	if len(raw) > 0 && raw[0] == 0x30 {
		// "0" in text is 0x30 too: hex digits of DER begin with it.
		if err := r.der(raw); err == nil || !isText(raw) {
			return err
		}
	}
	text := bytes.TrimRight(bytes.TrimSpace(raw), "\x00") // C programs leave the string's end in
	switch {
	case len(text) == 0:
		return refuse(r.file, "nothing", known)
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return r.pem(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN%20")):
		plain, err := url.PathUnescape(string(text))
		if err != nil {
			return refuse(r.file, "text that can't be unescaped", "PEM")
		}
		return r.read([]byte(plain), depth+1)
	case text[0] == '{':
		return r.object(text, depth)
	case text[0] == '[':
		var list []string
		if err := json.Unmarshal(text, &list); err != nil {
			return refuse(r.file, err.Error(), "a list of texts")
		}
		for _, one := range list {
			if err := r.read([]byte(one), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if der, err := hex.DecodeString(string(text)); err == nil {
		return r.binary(der)
	}
	compact := strings.Join(strings.Fields(string(text)), "")
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if inner, err := enc.DecodeString(compact); err == nil {
			if bytes.HasPrefix(inner, []byte("-----BEGIN ")) {
				return r.pem(inner)
			}
			return r.binary(inner)
		}
	}
	return refuse(r.file, "bytes of an unknown form", known)
}

func isText(raw []byte) bool {
	for _, b := range raw {
		if b >= 0x80 || b < 0x20 && b != '\n' && b != '\r' && b != '\t' {
			return false
		}
	}
	return true
}

// binary is der for bytes that came out of a text.
func (r *reader) binary(raw []byte) error {
	if len(raw) == 0 || raw[0] != 0x30 {
		return refuse(r.file, "bytes of an unknown form", "DER")
	}
	return r.der(raw)
}

func (r *reader) der(raw []byte) error {
	certs, err := x509.ParseCertificates(raw)
	if err == nil {
		for _, c := range certs {
			if err := r.certificate(c); err != nil {
				return err
			}
		}
		return nil
	}
	list, listErr := x509.ParseRevocationList(raw)
	if listErr != nil {
		return refuse(r.file, fmt.Sprintf("DER that is neither a certificate (%v) nor a revocation list (%v)", err, listErr), known)
	}
	return r.list(list)
}

func (r *reader) pem(text []byte) error {
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return refuse(r.file, "text between PEM blocks", "PEM and nothing else")
		}
		block, after := pem.Decode(rest)
		if block == nil || len(after) >= len(rest) {
			return refuse(r.file, "PEM that can't be read", "PEM")
		}
		rest = after
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return refuse(r.file, err.Error(), "a certificate")
			}
			if err := r.certificate(cert); err != nil {
				return err
			}
		case "X509 CRL":
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return refuse(r.file, err.Error(), "a revocation list")
			}
			if err := r.list(list); err != nil {
				return err
			}
		default:
			return refuse(r.file, "PEM block "+block.Type, "CERTIFICATE or X509 CRL")
		}
	}
	return nil
}

func (r *reader) certificate(c *x509.Certificate) error {
	return r.add(Item{Kind: KindCertificate, About: c.Subject.CommonName, From: c.NotBefore.UTC(), Until: c.NotAfter.UTC(), Raw: c.Raw, Certificate: c})
}

func (r *reader) list(l *x509.RevocationList) error {
	i := Item{Kind: KindCRL, About: l.Issuer.CommonName, From: l.ThisUpdate.UTC(), Number: l.Number, Raw: l.Raw, CRL: l}
	if !l.NextUpdate.IsZero() {
		i.Until = l.NextUpdate.UTC()
	}
	return r.add(i)
}

// object takes a JSON object apart. Members are known by their names, without case and underscores, because each library
// has its own way to write them; members that are not known are passed over.
func (r *reader) object(raw []byte, depth int) error {
	if _, err := strictjson.Object(r.file, raw); err != nil { // no member twice, also inside
		return err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return refuse(r.file, err.Error(), "one JSON object")
	}
	plain := map[string]json.RawMessage{}
	for name, value := range members {
		key := strings.ReplaceAll(strings.ToLower(name), "_", "")
		if _, twice := plain[key]; twice {
			return refuse(r.file, "two members like "+name, "each member once")
		}
		plain[key] = value
	}
	for _, m := range documentMembers {
		if value, ok := plain[m.name]; ok {
			if err := r.document(m, value, plain, depth); err != nil {
				return err
			}
		}
	}
	for _, name := range textMembers {
		value, ok := plain[name]
		if !ok || string(value) == "null" || string(value) == `""` {
			continue
		}
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value) // a list of texts
		}
		if err := r.read([]byte(text), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// textMembers hold certificates or lists, by their plain names: THIM's first, then those of quoting libraries. The order
// is fixed, so that a set is the same each time.
var textMembers = []string{
	"vcekcert", "vlekcert", "certificatechain",
	"pckcertificatechain", "pckcrlissuerchain", "rootcacrl", "rootcrl", "pckcrl",
	"tcbinfoissuerchain", "qeidentityissuerchain", "enclaveidentityissuerchain",
}
