package dcap

import (
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// qeIdentity is which enclave may quote, and what its versions are worth: version 2 of the document.
type qeIdentity struct {
	period
	doc            *document
	tee            TEE
	evaluation     uint32
	misc, miscMask [4]byte // in the order of a report's bytes
	attr, attrMask [16]byte
	mrsigner       [32]byte
	isvprodid      uint16
	levels         []svnLevel
}

func parseQEIdentity(raw []byte) (*qeIdentity, error) {
	doc, err := parseDocument("enclaveIdentity", raw)
	if err != nil {
		return nil, err
	}
	q, m := &qeIdentity{doc: doc}, &doc.members
	if v := m.number("version", 32); m.err == nil && v != 2 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "version of the enclave identity", fmt.Sprint(v), "2")
	}
	switch id := m.text("id"); {
	case m.err != nil:
	case id == "QE":
		q.tee = SGX
	case id == "TD_QE":
		q.tee = TDX
	default:
		return nil, evidence.Refuse(evidence.CodeUnsupported, "id of the enclave identity", id, "QE or TD_QE")
	}
	q.period = readPeriod(m)
	q.evaluation = uint32(m.number("tcbEvaluationDataNumber", 32))
	m.hex("miscselect", q.misc[:])
	m.hex("miscselectMask", q.miscMask[:])
	m.hex("attributes", q.attr[:])
	m.hex("attributesMask", q.attrMask[:])
	m.hex("mrsigner", q.mrsigner[:])
	q.isvprodid = uint16(m.number("isvprodid", 16))
	q.levels = readSVNLevels(m)
	if m.err != nil {
		return nil, m.err
	}
	return q, nil
}

// match checks that a report is of this enclave. Refusals have the code refuse/chain: another enclave certified the key.
func (q *qeIdentity) match(r *QEReport) error {
	refuse := func(field string, got, want []byte) error {
		return refuseChain(field+" of the QE", hex.EncodeToString(got), hex.EncodeToString(want)+", as the QE identity says")
	}
	switch {
	case r.MRSigner != q.mrsigner:
		return refuse("MRSIGNER", r.MRSigner[:], q.mrsigner[:])
	case r.ISVProdID != q.isvprodid:
		return refuseChain("product id of the QE", fmt.Sprint(r.ISVProdID), fmt.Sprintf("%d, as the QE identity says", q.isvprodid))
	case !masked(r.MiscSelect[:], q.miscMask[:], q.misc[:]):
		return refuse("MISCSELECT", r.MiscSelect[:], q.misc[:])
	case !masked(r.Attributes[:], q.attrMask[:], q.attr[:]):
		return refuse("attributes", r.Attributes[:], q.attr[:])
	}
	return nil
}
