package request

import (
	"encoding/json"
	"fmt"
	"strconv"

	"cloister.dev/cloister/evidence"
)

// Guest is a request for a token of a running guest (AzureGuest).
type Guest struct {
	OSType, OSDistro, OSBuild      string
	OSVersionMajor, OSVersionMinor int
	EventLog                       []byte
	ClientPayload                  map[string]any // as sent: values are base64 texts

	AKPublic       []byte // TPM2B_PUBLIC
	Quote          []byte // TPMS_ATTEST
	QuoteSignature []byte // raw RSA signature
	PCRs           map[int][32]byte

	// The ephemeral key; all nil: the answer is to come in plain text.
	EncKeyPublic, EncKeyCertify, EncKeySignature []byte

	// The hardware's evidence: a SEV-SNP report with its chain, or a TD quote.
	Report   []byte
	Chain    []byte // PEM
	TDQuote  []byte // nil: SEV-SNP
	Runtime  *Data  // the claims of the HCL report
	InitTime *Data  // ours; nil: not sent
}

// ParseGuest reads the body of POST /attest/AzureGuest.
func ParseGuest(body []byte) (*Guest, error) {
	outer, err := parseObject("request", body)
	if err != nil {
		return nil, err
	}
	info, err := outer.bytes("AttestationInfo", MaxBody, true)
	if err != nil {
		return nil, err
	}
	o, err := parseObject("AttestationInfo", info)
	if err != nil {
		return nil, err
	}
	g := &Guest{}
	for _, read := range []func(object) error{g.system, g.payload, g.tpm, g.isolation} {
		if err := read(o); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *Guest) system(o object) (err error) {
	protocol, err := o.text("AttestationProtocolVersion", 16, true)
	if err != nil {
		return err
	}
	if protocol != "2.0" {
		return evidence.Refuse(evidence.CodeUnsupported, "AttestationInfo.AttestationProtocolVersion", protocol, "2.0")
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{"OSType", &g.OSType}, {"OSDistro", &g.OSDistro}, {"OSBuild", &g.OSBuild}} {
		raw, err := o.bytes(f.name, maxOSText, false)
		if err != nil {
			return err
		}
		*f.to = string(raw)
	}
	if g.OSVersionMajor, err = o.version("OSVersionMajor"); err != nil {
		return err
	}
	if g.OSVersionMinor, err = o.version("OSVersionMinor"); err != nil {
		return err
	}
	g.EventLog, err = o.bytes("TcgLogs", maxEventLog, false)
	return err
}

// version reads a number, or a text that holds one: clients do both.
func (o object) version(name string) (int, error) {
	var text string
	switch v := o.get(name).(type) {
	case nil:
		return 0, nil
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return 0, o.bad(name, fmt.Sprintf("%T", v), "a number")
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, o.bad(name, text, "a number")
	}
	return int(n), nil
}

func (g *Guest) payload(o object) error {
	if o.get("ClientPayload") == nil {
		return nil
	}
	p, err := o.object("ClientPayload")
	if err != nil {
		return err
	}
	total := 0
	for name, v := range p.members {
		s, ok := v.(string)
		if !ok {
			return p.bad(name, fmt.Sprintf("%T", v), "base64")
		}
		if _, err := decode64(s); err != nil {
			return p.bad(name, "no base64", "base64")
		}
		if total += len(name) + len(s); total > maxPayload {
			return o.bad("ClientPayload", "too long", fmt.Sprintf("at most %d bytes", maxPayload))
		}
	}
	g.ClientPayload = p.members
	return nil
}

func (g *Guest) tpm(o object) error {
	t, err := o.object("TpmInfo")
	if err != nil {
		return err
	}
	// AikCert is not read: the key is trusted because the hardware evidence names it.
	for _, f := range []struct {
		name string
		to   *[]byte
		need bool
	}{
		{"AikPub", &g.AKPublic, true}, {"PcrQuote", &g.Quote, true}, {"PcrSignature", &g.QuoteSignature, true},
		{"EncKeyPub", &g.EncKeyPublic, false}, {"EncKeyCertifyInfo", &g.EncKeyCertify, false}, {"EncKeyCertifyInfoSignature", &g.EncKeySignature, false},
	} {
		if *f.to, err = t.bytes(f.name, maxTPM, f.need); err != nil {
			return err
		}
	}
	if some, all := g.EncKeyPublic != nil || g.EncKeyCertify != nil || g.EncKeySignature != nil, g.EncKeyPublic != nil && g.EncKeyCertify != nil && g.EncKeySignature != nil; some != all {
		return t.bad("EncKeyPub", "only part of EncKeyPub, EncKeyCertifyInfo, EncKeyCertifyInfoSignature", "all three, or none for a plain answer")
	}
	return g.pcrs(t)
}

func (g *Guest) pcrs(t object) error {
	list, ok := t.get("PCRs").([]any)
	if !ok || len(list) == 0 || len(list) > 24 {
		return t.bad("PCRs", fmt.Sprintf("%d registers", len(list)), "a list of 1 to 24")
	}
	g.PCRs = map[int][32]byte{}
	for i, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			return t.bad("PCRs", fmt.Sprintf("%T", e), "objects")
		}
		o := object{fmt.Sprintf("%s.PCRs[%d]", t.path, i), m}
		n, err := index(o.get("Index"))
		if err != nil {
			return o.bad("Index", fmt.Sprint(o.get("Index")), "0 to 23")
		}
		digest, err := o.bytes("Digest", 64, true)
		if err != nil {
			return err
		}
		if _, twice := g.PCRs[n]; twice || len(digest) != 32 {
			return o.bad("Digest", fmt.Sprintf("%d bytes for register %d", len(digest), n), "32 bytes, each register once")
		}
		g.PCRs[n] = [32]byte(digest)
	}
	set, ok := t.get("PcrSet").([]any)
	if !ok || len(set) != len(g.PCRs) {
		return t.bad("PcrSet", fmt.Sprintf("%d registers", len(set)), fmt.Sprintf("the %d of PCRs", len(g.PCRs)))
	}
	seen := map[int]bool{}
	for _, e := range set {
		n, err := index(e)
		if _, there := g.PCRs[n]; err != nil || !there || seen[n] {
			return t.bad("PcrSet", fmt.Sprint(e), "the registers of PCRs, each once")
		}
		seen[n] = true
	}
	return nil
}

func index(v any) (int, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("no number")
	}
	i, err := strconv.ParseUint(n.String(), 10, 8)
	if err != nil || i > 23 {
		return 0, fmt.Errorf("no register")
	}
	return int(i), nil
}

// proof reads the hardware's evidence: of a SEV-SNP report a JSON that wraps it, of a TD the quote.
func (g *Guest) proof(e object, kind string) error {
	proof, err := e.bytes("Proof", 2*(maxReport+maxChain), true)
	if err != nil {
		return err
	}
	if kind == "SevSnp" {
		g.Report, g.Chain, err = parseReport(e.path+".Proof", proof)
		return err
	}
	if len(proof) > maxQuote {
		return e.bad("Proof", fmt.Sprintf("%d bytes", len(proof)), fmt.Sprintf("at most %d", maxQuote))
	}
	g.TDQuote = proof
	return nil
}

func (g *Guest) isolation(o object) error {
	i, err := o.object("IsolationInfo")
	if err != nil {
		return err
	}
	kind, err := i.text("Type", 32, true)
	if err != nil {
		return err
	}
	if kind != "SevSnp" && kind != "Tdx" {
		return evidence.Refuse(evidence.CodeUnsupported, "AttestationInfo.IsolationInfo.Type", kind, "SevSnp or Tdx")
	}
	e, err := i.object("Evidence")
	if err != nil {
		return err
	}
	if err := g.proof(e, kind); err != nil {
		return err
	}
	runtime, err := e.bytes("RunTimeData", maxData, true)
	if err != nil {
		return err
	}
	if g.Runtime, err = jsonData(e.path+".RunTimeData", runtime); err != nil {
		return err
	}
	init, err := e.bytes("InitTimeData", maxData, false)
	if err != nil || init == nil {
		return err
	}
	g.InitTime, err = jsonData(e.path+".InitTimeData", init)
	return err
}
