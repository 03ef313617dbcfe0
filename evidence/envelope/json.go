package envelope

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/strictjson"
	"cloister.dev/cloister/evidence/vtpm"
)

// openJSON tells the JSON forms apart by their members. A member that the form does not have is a refusal.
func openJSON(raw []byte) (*Evidence, error) {
	obj, err := strictjson.Object("evidence", raw)
	if err != nil {
		return nil, err
	}
	o := object{what: "evidence", members: obj}
	if text, ok := obj["version"].(string); ok && strings.HasPrefix(text, "cloister.") {
		return openBundle(raw)
	}
	switch {
	case o.has("hcl_report") || o.has("report"):
		return openAzure(o)
	case o.has("outblob"):
		return openTSMJSON(o)
	case o.has("ak_public") && o.has("tpm_quote"):
		return openQuoteWithKey(o)
	case o.has("message") && o.has("signature"):
		ev := &Evidence{Form: FormTPMQuote, Kind: KindTPM}
		ev.TPM, err = o.tpmQuote(hexDigits)
		return ev, err
	case o.has("SnpReport"):
		return openMAASNP(o)
	case o.has("vcekCert") || o.has("tcbInfo") || o.has("enclaveIdentity") || o.has("tcb_info"):
		return nil, unsupported("evidence", "certificates or collateral", "a report, a quote or a bundle; certificates and collateral go beside it")
	}
	return nil, unsupported("evidence", fmt.Sprintf("JSON with the members %.200q", slices.Sorted(maps.Keys(obj))), "JSON of a known form")
}

// object is one JSON object that is taken apart member by member.
type object struct {
	what    string
	members map[string]any
}

func (o object) has(name string) bool { _, ok := o.members[name]; return ok }

// only refuses members that the form does not have.
func (o object) only(names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(o.members)) {
		if !slices.Contains(names, name) {
			return malformed(o.what, fmt.Sprintf("member %.64q", name), strings.Join(names, ", "))
		}
	}
	return nil
}

// encoding turns text into bytes.
type encoding func(string) ([]byte, error)

func hexDigits(text string) ([]byte, error) { return hex.DecodeString(text) }

// anyBase64 reads both alphabets, with and without padding.
func anyBase64(text string) ([]byte, error) {
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	return base64.RawStdEncoding.Strict().DecodeString(text)
}

// bytes reads bytes that stand as text or as a list of numbers.
func (o object) bytes(name string, text encoding) ([]byte, error) {
	return asBytes(o.what+" "+name, o.members[name], text)
}

func asBytes(what string, v any, text encoding) ([]byte, error) {
	switch v := v.(type) {
	case string:
		out, err := text(v)
		if err != nil {
			return nil, malformed(what, err.Error(), "bytes as text")
		}
		if len(out) == 0 {
			return nil, malformed(what, "nothing", "bytes")
		}
		return out, nil
	case []any:
		out := make([]byte, len(v))
		for i, x := range v {
			n, ok := x.(float64)
			if !ok || n < 0 || n > 255 || n != float64(byte(n)) {
				return nil, malformed(what, fmt.Sprintf("%.32q at %d", fmt.Sprint(x), i), "numbers from 0 to 255")
			}
			out[i] = byte(n)
		}
		if len(out) == 0 {
			return nil, malformed(what, "nothing", "bytes")
		}
		return out, nil
	}
	return nil, malformed(what, "nothing of the kind", "bytes as text or as a list of numbers")
}

// object is a member that is an object.
func (o object) object(name string) (object, error) {
	m, ok := o.members[name].(map[string]any)
	if !ok {
		return object{}, malformed(o.what+" "+name, "no object", "an object")
	}
	return object{what: o.what + " " + name, members: m}, nil
}

// tpmQuote reads message, signature and pcrs.
func (o object) tpmQuote(text encoding) (*TPMQuote, error) {
	if err := o.only("message", "signature", "pcrs"); err != nil {
		return nil, err
	}
	msg, err := o.bytes("message", text)
	if err != nil {
		return nil, err
	}
	sig, err := o.bytes("signature", text)
	if err != nil {
		return nil, err
	}
	list, ok := o.members["pcrs"].([]any)
	if !ok || len(list) > maxPCRs {
		return nil, malformed(o.what+" pcrs", fmt.Sprintf("%T, %d", o.members["pcrs"], len(list)), fmt.Sprintf("a list of 1 to %d", maxPCRs))
	}
	values := make([][]byte, len(list))
	for i, v := range list {
		if values[i], err = asBytes(fmt.Sprintf("%s pcrs %d", o.what, i), v, hexDigits); err != nil {
			return nil, err
		}
	}
	return newTPMQuote(msg, sig, values)
}

// openAzure reads an HCL report with a quote of its vTPM: the names report, quote, vcek come first in time; then
// hcl_report, tpm_quote, and vcek as base64url of DER or td_quote.
func openAzure(o object) (*Evidence, error) {
	report, quote := "hcl_report", "tpm_quote"
	if o.has("report") {
		report, quote = "report", "quote"
	}
	if err := o.only("version", report, quote, "vcek", "td_quote"); err != nil {
		return nil, err
	}
	if v, ok := o.members["version"]; ok && v != float64(1) && v != float64(2) {
		return nil, unsupported("evidence version", fmt.Sprintf("%.32q", fmt.Sprint(v)), "1 or 2, or none")
	}
	raw, err := o.bytes(report, anyBase64)
	if err != nil {
		return nil, err
	}
	ev := &Evidence{Form: FormAzureVTPM}
	if err := ev.addHCL(raw); err != nil {
		return nil, err
	}
	q, err := o.object(quote)
	if err != nil {
		return nil, err
	}
	if ev.TPM, err = q.tpmQuote(hexDigits); err != nil {
		return nil, err
	}
	if o.has("td_quote") != (ev.HCL.Type == hcl.TypeTDX) || o.has("vcek") != (ev.HCL.Type == hcl.TypeSNP) {
		return nil, unsupported("evidence", fmt.Sprintf("an HCL report of the type %s, td_quote %t, vcek %t", ev.HCL.Type, o.has("td_quote"), o.has("vcek")), "td_quote for TDX, vcek for SNP")
	}
	ev.Kind = KindAzure
	if ev.HCL.Type == hcl.TypeTDX {
		td, err := o.bytes("td_quote", anyBase64)
		if err != nil {
			return nil, err
		}
		inner, err := openBinary(td)
		if err != nil {
			return nil, err
		}
		if inner.Form != FormTDQuote {
			return nil, unsupported("evidence td_quote", "a "+string(inner.Form), "a "+string(FormTDQuote))
		}
		ev.TDQuote = inner.TDQuote
		return ev, nil
	}
	cert, err := o.bytes("vcek", pemOrBase64)
	if err != nil {
		return nil, err
	}
	ev.Certificates = [][]byte{cert}
	return ev, nil
}

// pemOrBase64 leaves PEM as it is.
func pemOrBase64(text string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN ") {
		return []byte(text), nil
	}
	return anyBase64(text)
}

func openTSMJSON(o object) (*Evidence, error) {
	if err := o.only("outblob", "auxblob", "provider"); err != nil {
		return nil, err
	}
	out, err := o.bytes("outblob", anyBase64)
	if err != nil {
		return nil, err
	}
	var aux []byte
	if o.has("auxblob") && o.members["auxblob"] != "" {
		if aux, err = o.bytes("auxblob", anyBase64); err != nil {
			return nil, err
		}
	}
	provider, ok := o.members["provider"].(string)
	if !ok {
		return nil, malformed("evidence provider", "none", "text")
	}
	return openTSM(out, aux, provider)
}

// openQuoteWithKey reads a vTPM quote with the key that is said to have signed it, as SubjectPublicKeyInfo.
func openQuoteWithKey(o object) (*Evidence, error) {
	if err := o.only("ak_public", "tpm_quote"); err != nil {
		return nil, err
	}
	der, err := o.bytes("ak_public", anyBase64)
	if err != nil {
		return nil, err
	}
	ev := &Evidence{Form: FormTPMQuote, Kind: KindTPM}
	if ev.AK, err = x509.ParsePKIXPublicKey(der); err != nil {
		return nil, malformed("evidence ak_public", err.Error(), "a SubjectPublicKeyInfo")
	}
	switch ev.AK.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
	default:
		return nil, unsupported("evidence ak_public", fmt.Sprintf("%T", ev.AK), "an RSA or ECC key")
	}
	q, err := o.object("tpm_quote")
	if err != nil {
		return nil, err
	}
	ev.TPM, err = q.tpmQuote(anyBase64)
	return ev, err
}

// openMAASNP reads a report with its chain as Azure's attestation protocol carries them.
func openMAASNP(o object) (*Evidence, error) {
	if err := o.only("SnpReport", "VcekCertChain"); err != nil {
		return nil, err
	}
	raw, err := o.bytes("SnpReport", anyBase64)
	if err != nil {
		return nil, err
	}
	r, err := sevsnp.Parse(raw)
	if err != nil {
		return nil, err
	}
	chain, err := o.bytes("VcekCertChain", pemOrBase64)
	if err != nil {
		return nil, err
	}
	return &Evidence{Form: FormMAASNP, Kind: KindSNP, SNP: r, Certificates: [][]byte{chain}}, nil
}

func openBundle(raw []byte) (*Evidence, error) {
	b, err := bundle.Parse(raw)
	if err != nil {
		return nil, err
	}
	ev := &Evidence{Form: FormBundle}
	if err := ev.addHCL(b.HCLReport); err != nil {
		return nil, err
	}
	if ev.Kind != KindSNP {
		return nil, unsupported("evidence bundle hclReport", ev.HCL.Type.String(), "SNP")
	}
	ak, err := vtpm.ParsePublic("evidence bundle akPublic", b.AKPublic)
	if err != nil {
		return nil, err
	}
	pcrs, err := b.Values()
	if err != nil {
		return nil, err
	}
	q, err := vtpm.ParseQuote(b.Quote)
	if err != nil {
		return nil, err
	}
	ev.AK, ev.Nonce, ev.SSHHostKey, ev.EventLog = ak.Key, b.Nonce, b.SSHHostKey, b.EventLog
	ev.TPM = &TPMQuote{Message: b.Quote, Signature: b.Signature, Quote: q, PCRs: pcrs}
	ev.Certificates = [][]byte{[]byte(b.Chain)}
	return ev, nil
}
