package dcaptest

import (
	"encoding/asn1"
	"testing"

	"cloister.dev/cloister/evidence/dcap"
)

func sgxOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, tail...)
}

// SGXExtension is the SGX extension of a PCK certificate as pairs of an id, below 1.2.840.113741.1.13.1, and a value in DER.
type SGXExtension struct{ Top, TCB []Pair }

// Pair is an id's last number and a value in DER.
type Pair struct {
	ID    int
	Value []byte
}

// Set replaces a value, or adds it.
func Set(list *[]Pair, id int, value []byte) {
	for i := range *list {
		if (*list)[i].ID == id {
			(*list)[i].Value = value
			return
		}
	}
	*list = append(*list, Pair{id, value})
}

// Drop takes a value out.
func Drop(list *[]Pair, id int) {
	var kept []Pair
	for _, p := range *list {
		if p.ID != id {
			kept = append(kept, p)
		}
	}
	*list = kept
}

// DER encodes a value.
func DER(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sequence(t testing.TB, list []Pair, base ...int) []byte {
	t.Helper()
	var content []byte
	for _, p := range list {
		pair := append(DER(t, sgxOID(append(append([]int{}, base...), p.ID)...)), p.Value...)
		content = append(content, DER(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: pair})...)
	}
	return DER(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content})
}

func (v *Vendor) extension(t testing.TB) []byte {
	t.Helper()
	o, x := v.Options, &SGXExtension{}
	for i, svn := range o.SGXTCB {
		Set(&x.TCB, i+1, DER(t, int(svn)))
	}
	Set(&x.TCB, 17, DER(t, int(o.PCESVN)))
	Set(&x.TCB, 18, DER(t, o.SGXTCB[:]))
	Set(&x.Top, 1, DER(t, []byte("PPID of a test..")))
	Set(&x.Top, 2, nil) // the TCB, below
	Set(&x.Top, 3, DER(t, o.PCEID[:]))
	Set(&x.Top, 4, DER(t, o.FMSPC[:]))
	Set(&x.Top, 5, DER(t, asn1.Enumerated(1)))
	if o.CA == dcap.Platform {
		Set(&x.Top, 6, DER(t, []byte("instance of one.")))
		Set(&x.Top, 7, sequence(t, []Pair{{1, DER(t, true)}, {2, DER(t, false)}, {3, DER(t, true)}}, 7))
	}
	if o.Extension != nil {
		o.Extension(x)
	}
	for i := range x.Top {
		if x.Top[i].ID == 2 && x.Top[i].Value == nil {
			x.Top[i].Value = sequence(t, x.TCB, 2)
		}
	}
	return sequence(t, x.Top)
}
