package collateral

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// Document is one of Intel's signed JSON documents, as far as is needed to find the right one.
type Document struct {
	ID         string // TCB info: TDX or SGX; identity: TD_QE, QE, QVE
	FMSPC      string // TCB info: 12 hex digits, lower case
	Evaluation uint32
	Issued     time.Time
	Next       time.Time
	Signed     []byte   // the exact bytes that the signature is over
	Signature  [64]byte // r and s, big-endian
}

// documentMember is a member of a JSON object that holds a document.
type documentMember struct {
	name      string // plain
	served    string // as Intel writes it
	kind      string
	signature []string // plain names of the members that may hold the signature
}

var documentMembers = []documentMember{
	{"tcbinfo", "tcbInfo", KindTCBInfo, []string{"signature", "tcbinfosignature"}},
	{"enclaveidentity", "enclaveIdentity", KindQEIdentity, []string{"signature", "enclaveidentitysignature"}},
	{"qeidentity", "enclaveIdentity", KindQEIdentity, []string{"qeidentitysignature", "signature"}},
	{"tcbevaluationdatanumbers", "tcbEvaluationDataNumbers", KindEvaluations, []string{"signature"}},
}

// document reads a document that is an object beside its signature, or a text: of the document alone, or of the whole
// object as Intel serves it.
func (r *reader) document(m documentMember, value json.RawMessage, siblings map[string]json.RawMessage, depth int) error {
	signed := []byte(value)
	if len(value) > 0 && value[0] == '"' {
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return refuse(r.file, err.Error(), m.served)
		}
		signed = []byte(strings.TrimSpace(text))
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(signed, &inner); err != nil {
			return refuse(r.file, m.served+" that is not JSON", "a JSON object")
		}
		if _, whole := inner[m.served]; whole {
			return r.read(signed, depth+1)
		}
	}
	var fields struct {
		ID         string    `json:"id"`
		FMSPC      string    `json:"fmspc"`
		Evaluation uint32    `json:"tcbEvaluationDataNumber"`
		Issued     time.Time `json:"issueDate"`
		Next       time.Time `json:"nextUpdate"`
	}
	if err := json.Unmarshal(signed, &fields); err != nil {
		return refuse(r.file, m.served+": "+err.Error(), "Intel's document")
	}
	d := &Document{ID: fields.ID, FMSPC: strings.ToLower(fields.FMSPC), Evaluation: fields.Evaluation, Issued: fields.Issued.UTC(), Next: fields.Next.UTC(), Signed: bytes.Clone(signed)}
	if m.kind == KindTCBInfo {
		if d.ID == "" {
			d.ID = "SGX" // version 2 had no id, and knew nothing else
		}
		if id, err := hex.DecodeString(d.FMSPC); err != nil || len(id) != 6 {
			return refuse(r.file, "fmspc "+fields.FMSPC, "12 hex digits")
		}
	}
	var text string
	for _, name := range m.signature {
		if value, ok := siblings[name]; ok && json.Unmarshal(value, &text) == nil && text != "" {
			break
		}
	}
	sig, err := hex.DecodeString(text)
	if err != nil || len(sig) != len(d.Signature) {
		return refuse(r.file, "signature of "+m.served+" "+text, "128 hex digits")
	}
	copy(d.Signature[:], sig)
	about := d.ID
	if d.FMSPC != "" {
		about += " " + d.FMSPC
	}
	return r.add(Item{Kind: m.kind, About: about, From: d.Issued, Until: d.Next, Evaluation: d.Evaluation, Document: d, Raw: d.served(m.served)})
}

// served is the document as Intel serves it, with the signed bytes unchanged.
func (d *Document) served(member string) []byte {
	out := append([]byte(`{"`+member+`":`), d.Signed...)
	return append(out, []byte(`,"signature":"`+hex.EncodeToString(d.Signature[:])+`"}`)...)
}
