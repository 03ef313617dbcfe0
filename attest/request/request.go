// Package request reads what clients of the attestation service send: the wire forms of Azure's
// protocol, and ours, become plain values. It judges no evidence.
package request

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

// Limits, in bytes. They are far above what real clients send.
const (
	MaxBody        = 4 << 20
	maxReport      = 16 << 10
	maxQuote       = 64 << 10
	maxChain       = 64 << 10
	maxData        = 64 << 10
	maxNonce       = 1 << 10
	maxTPM         = 8 << 10 // one TPM structure or certificate
	maxEventLog    = 1 << 20
	maxOSText      = 256
	maxPayload     = 64 << 10
	maxDraftPolicy = 256 << 10
)

// Data is runtime or init-time data: the bytes whose digest the hardware signed.
type Data struct {
	Raw    []byte
	Object map[string]any // the parsed form, numbers as json.Number; nil for binary data
}

// SevSnpVM is a request for a token of a VM without its vTPM.
type SevSnpVM struct {
	Report      []byte
	Chain       []byte // PEM
	Runtime     *Data  // nil: not sent
	InitTime    *Data  // nil: not sent
	Nonce       string // "": not sent
	DraftPolicy string // a policy JWS; "": not sent
}

// object is a JSON object whose members are read with rules of their own, and complaints with a path.
type object struct {
	path    string
	members map[string]any
}

func parseObject(path string, raw []byte) (object, error) {
	m, err := strictjson.ObjectWithNumbers(path, raw)
	return object{path, m}, err
}

func (o object) bad(name, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, o.path+"."+name, got, want)
}

// get finds a member without case: strictjson made sure that there is at most one. JSON null is absent.
func (o object) get(name string) any {
	for k, v := range o.members {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

func (o object) text(name string, max int, need bool) (string, error) {
	switch v := o.get(name).(type) {
	case nil:
		if need {
			return "", o.bad(name, "absent", "a text")
		}
		return "", nil
	case string:
		if len(v) > max {
			return "", o.bad(name, fmt.Sprintf("%d bytes", len(v)), fmt.Sprintf("at most %d", max))
		}
		if need && v == "" {
			return "", o.bad(name, "empty", "a text")
		}
		return v, nil
	default:
		return "", o.bad(name, fmt.Sprintf("%T", v), "a text")
	}
}

// bytes reads base64 of either alphabet, with or without padding, of at most max decoded bytes.
func (o object) bytes(name string, max int, need bool) ([]byte, error) {
	s, err := o.text(name, base64.StdEncoding.EncodedLen(max)+4, need)
	if err != nil || s == "" {
		return nil, err
	}
	raw, err := decode64(s)
	if err != nil {
		return nil, o.bad(name, "no base64", "base64")
	}
	if len(raw) > max {
		return nil, o.bad(name, fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d", max))
	}
	return raw, nil
}

func (o object) object(name string) (object, error) {
	v := o.get(name)
	m, ok := v.(map[string]any)
	if !ok {
		return object{}, o.bad(name, fmt.Sprintf("%T", v), "an object")
	}
	return object{o.path + "." + name, m}, nil
}

var alphabets = strings.NewReplacer("-", "+", "_", "/")

func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // encoding/base64 would skip them
		return nil, fmt.Errorf("a line break")
	}
	return base64.RawStdEncoding.DecodeString(alphabets.Replace(strings.TrimRight(s, "=")))
}

// ParseSevSnpVM reads the body of POST /attest/SevSnpVm.
func ParseSevSnpVM(body []byte) (*SevSnpVM, error) {
	o, err := parseObject("request", body)
	if err != nil {
		return nil, err
	}
	var out SevSnpVM
	wrapped, err := o.bytes("report", 2*(maxReport+maxChain), true)
	if err != nil {
		return nil, err
	}
	if out.Report, out.Chain, err = parseReport("request.report", wrapped); err != nil {
		return nil, err
	}
	if out.Runtime, err = o.data("runtimeData"); err != nil {
		return nil, err
	}
	if out.InitTime, err = o.data("initTimeData"); err != nil {
		return nil, err
	}
	if out.Nonce, err = o.nonce(); err != nil {
		return nil, err
	}
	out.DraftPolicy, err = o.text("draftPolicyForAttestation", maxDraftPolicy, false)
	return &out, err
}

// TdxVM is a request for a token of a TD.
type TdxVM struct {
	Quote    []byte
	Runtime  *Data  // nil: not sent
	InitTime *Data  // nil: not sent
	Nonce    string // "": not sent
}

// ParseTdxVM reads the body of POST /attest/TdxVm. The call has no draft policy.
func ParseTdxVM(body []byte) (*TdxVM, error) {
	o, err := parseObject("request", body)
	if err != nil {
		return nil, err
	}
	if o.get("draftPolicyForAttestation") != nil {
		return nil, evidence.Refuse(evidence.CodeUnsupported, o.path+".draftPolicyForAttestation", "a draft policy", "none: this call has no such member")
	}
	var out TdxVM
	if out.Quote, err = o.bytes("quote", maxQuote, true); err != nil {
		return nil, err
	}
	if out.Runtime, err = o.data("runtimeData"); err != nil {
		return nil, err
	}
	if out.InitTime, err = o.data("initTimeData"); err != nil {
		return nil, err
	}
	out.Nonce, err = o.nonce()
	return &out, err
}

// nonce reads the nonce that comes back in the token. One container client sends a number.
func (o object) nonce() (string, error) {
	if n, ok := o.get("nonce").(json.Number); ok {
		return n.String(), nil
	}
	return o.text("nonce", maxNonce, false)
}

// parseReport reads the JSON that wraps a hardware report and its chain.
func parseReport(path string, raw []byte) (report, chain []byte, err error) {
	o, err := parseObject(path, raw)
	if err != nil {
		return nil, nil, err
	}
	if report, err = o.bytes("SnpReport", maxReport, true); err != nil {
		return nil, nil, err
	}
	chain, err = o.bytes("VcekCertChain", maxChain, true)
	return report, chain, err
}

func (o object) data(name string) (*Data, error) {
	if o.get(name) == nil {
		return nil, nil
	}
	d, err := o.object(name)
	if err != nil {
		return nil, err
	}
	raw, err := d.bytes("data", maxData, false)
	if err != nil {
		return nil, err
	}
	kind, err := d.text("dataType", 16, true)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.EqualFold(kind, "JSON"):
		return jsonData(d.path+".data", raw)
	case strings.EqualFold(kind, "Binary"):
		return &Data{Raw: raw}, nil
	}
	return nil, d.bad("dataType", kind, "JSON or Binary")
}

func jsonData(path string, raw []byte) (*Data, error) {
	m, err := strictjson.ObjectWithNumbers(path, raw)
	if err != nil {
		return nil, err
	}
	return &Data{Raw: raw, Object: m}, nil
}

// AK is a request for a certificate of a vTPM's attestation key.
type AK struct {
	HCLReport []byte
	Chain     []byte // PEM
	InitTime  *Data  // nil: not sent
	EKPublic  []byte // TPM2B_PUBLIC
	AKPublic  []byte // TPM2B_PUBLIC
}

// ParseAK reads the body of POST /cloister/akcertificate.
func ParseAK(body []byte) (*AK, error) {
	o, err := parseObject("request", body)
	if err != nil {
		return nil, err
	}
	var out AK
	if out.HCLReport, err = o.bytes("hclReport", maxReport, true); err != nil {
		return nil, err
	}
	chain, err := o.text("chainPEM", maxChain, true)
	if err != nil {
		return nil, err
	}
	out.Chain = []byte(chain)
	if out.EKPublic, err = o.bytes("ekPublic", maxTPM, true); err != nil {
		return nil, err
	}
	if out.AKPublic, err = o.bytes("akPublic", maxTPM, true); err != nil {
		return nil, err
	}
	init, err := o.bytes("initTimeData", maxData, false)
	if err != nil || init == nil {
		return &out, err
	}
	out.InitTime, err = jsonData("request.initTimeData", init)
	return &out, err
}

// NewJSONData reads data that must be a JSON object; what names it in a refusal.
func NewJSONData(what string, raw []byte) (*Data, error) { return jsonData(what, raw) }
