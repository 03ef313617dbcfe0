package dcap

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// The CAs that issue PCK certificates.
const (
	Platform  = "platform"  // of platforms with several packages, which registered with Intel
	Processor = "processor" // of platforms with one package
)

// oidSGX is the extension that says of which platform and TCB a PCK is.
var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// PCK is what a provisioning certification key's certificate says of its platform.
type PCK struct {
	Cert       *x509.Certificate // not to be changed
	FMSPC      [6]byte           // family, model, stepping, platform type, SKU
	PCEID      [2]byte           // of the provisioning certification enclave; little-endian, as Intel writes it
	PPID       [16]byte          // the platform's own id
	SGXTCB     [16]uint8         // component SVNs 1 to 16
	PCESVN     uint16
	CPUSVN     [16]byte
	SGXType    uint8 // 0 standard, 1 scalable, 2 scalable with integrity
	CA         string
	InstanceID *[16]byte // platform CA only
	// Platform CA only; nil where the certificate does not say.
	DynamicPlatform, CachedKeys, SMT *bool
}

// ParsePCK reads the SGX extension of a PCK certificate. The certificate's signature is not looked at.
func ParsePCK(cert *x509.Certificate) (*PCK, error) {
	if cert == nil {
		return nil, refuseChain("PCK certificate", "none", "a certificate")
	}
	p := &PCK{Cert: cert}
	switch issuer := cert.Issuer.CommonName; {
	case strings.HasSuffix(issuer, anchor.PlatformCA):
		p.CA = Platform
	case strings.HasSuffix(issuer, anchor.ProcessorCA):
		p.CA = Processor
	default:
		return nil, refuseChain("issuer of the PCK certificate", issuer, "a PCK platform or processor CA")
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSGX) {
			if err := p.readExtension(e.Value); err != nil {
				return nil, err
			}
			return p, nil
		}
	}
	return nil, refuseChain("SGX extension of the PCK certificate", "absent", oidSGX.String())
}

// readExtension reads the extension's value: pairs of an id below oidSGX and a value, in strict DER. Each pair needed is there
// once; ids not known are passed over.
func (p *PCK) readExtension(der []byte) error {
	top, err := pairs("SGX extension", der, oidSGX)
	if err != nil {
		return err
	}
	tcb, err := top.need(2, asn1.TagSequence)
	if err != nil {
		return err
	}
	levels, err := pairs("TCB of the SGX extension", tcb.FullBytes, append(append(asn1.ObjectIdentifier{}, oidSGX...), 2))
	if err != nil {
		return err
	}
	for i := range p.SGXTCB {
		v, err := levels.integer(i+1, 255)
		if err != nil {
			return err
		}
		p.SGXTCB[i] = uint8(v)
	}
	pcesvn, err := levels.integer(17, 65535)
	if err != nil {
		return err
	}
	p.PCESVN = uint16(pcesvn)
	for _, o := range []struct {
		from pairList
		id   int
		to   []byte
	}{{levels, 18, p.CPUSVN[:]}, {top, 1, p.PPID[:]}, {top, 3, p.PCEID[:]}, {top, 4, p.FMSPC[:]}} {
		if err := o.from.octets(o.id, o.to); err != nil {
			return err
		}
	}
	kind, err := top.need(5, asn1.TagEnum)
	if err != nil {
		return err
	}
	if len(kind.Bytes) != 1 || kind.Bytes[0] > 2 {
		return refuseDER("SGX type", fmt.Sprintf("%x", kind.Bytes), "0, 1 or 2")
	}
	p.SGXType = kind.Bytes[0]
	return p.readPlatform(top)
}

// readPlatform reads what only certificates of the platform CA say.
func (p *PCK) readPlatform(top pairList) error {
	if _, there := top.values[6]; there {
		p.InstanceID = new([16]byte)
		if err := top.octets(6, p.InstanceID[:]); err != nil {
			return err
		}
	}
	if _, there := top.values[7]; !there {
		return nil
	}
	seq, err := top.need(7, asn1.TagSequence)
	if err != nil {
		return err
	}
	conf, err := pairs("configuration of the SGX extension", seq.FullBytes, append(append(asn1.ObjectIdentifier{}, oidSGX...), 7))
	if err != nil {
		return err
	}
	for i, to := range []**bool{&p.DynamicPlatform, &p.CachedKeys, &p.SMT} {
		if _, there := conf.values[i+1]; !there {
			continue
		}
		v, err := conf.need(i+1, asn1.TagBoolean)
		if err != nil {
			return err
		}
		if len(v.Bytes) != 1 || v.Bytes[0] != 0 && v.Bytes[0] != 0xff {
			return refuseDER(conf.what, fmt.Sprintf("%x", v.Bytes), "a DER BOOLEAN")
		}
		yes := v.Bytes[0] == 0xff
		*to = &yes
	}
	return nil
}

func refuseDER(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, field, got, want)
}

// pairList are values by the last number of their id.
type pairList struct {
	what   string
	values map[int]asn1.RawValue
}

// elements splits the content of a SEQUENCE, which is all of der. It does not go deeper, so that nesting costs nothing.
func elements(what string, der []byte) ([]asn1.RawValue, error) {
	var seq asn1.RawValue
	rest, err := asn1.Unmarshal(der, &seq)
	if err != nil || len(rest) > 0 || seq.Class != asn1.ClassUniversal || seq.Tag != asn1.TagSequence || !seq.IsCompound {
		return nil, refuseDER(what, "something else", "one DER SEQUENCE")
	}
	var out []asn1.RawValue
	for rest := seq.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil, refuseDER(what, err.Error(), "DER")
		}
		if out = append(out, v); len(out) > 32 {
			return nil, refuseDER(what, "more than 32 elements", "fewer")
		}
	}
	return out, nil
}

// pairs reads a SEQUENCE of SEQUENCEs of an id directly below base, and a value.
func pairs(what string, der []byte, base asn1.ObjectIdentifier) (pairList, error) {
	out := pairList{what, map[int]asn1.RawValue{}}
	list, err := elements(what, der)
	if err != nil {
		return out, err
	}
	for _, item := range list {
		two, err := elements(what, item.FullBytes)
		if err != nil {
			return out, err
		}
		var id asn1.ObjectIdentifier
		if len(two) != 2 {
			return out, refuseDER(what, fmt.Sprintf("%d elements", len(two)), "an id and a value")
		}
		if rest, err := asn1.Unmarshal(two[0].FullBytes, &id); err != nil || len(rest) > 0 || len(id) != len(base)+1 || !id[:len(base)].Equal(base) {
			return out, refuseDER(what, "another id", "ids below "+base.String())
		}
		last := id[len(base)]
		if _, twice := out.values[last]; twice {
			return out, refuseDER(what, id.String()+" twice", "once")
		}
		out.values[last] = two[1]
	}
	return out, nil
}

func (l pairList) need(id, tag int) (asn1.RawValue, error) {
	v, ok := l.values[id]
	if !ok || v.Class != asn1.ClassUniversal || v.Tag != tag {
		return v, refuseDER(fmt.Sprintf("%s .%d", l.what, id), "absent or of another type", fmt.Sprintf("ASN.1 tag %d", tag))
	}
	return v, nil
}

func (l pairList) integer(id int, most int64) (int64, error) {
	v, err := l.need(id, asn1.TagInteger)
	if err != nil {
		return 0, err
	}
	var n int64
	if rest, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || len(rest) > 0 || n < 0 || n > most {
		return 0, refuseDER(fmt.Sprintf("%s .%d", l.what, id), fmt.Sprintf("%x", v.FullBytes), fmt.Sprintf("a DER INTEGER from 0 to %d", most))
	}
	return n, nil
}

func (l pairList) octets(id int, to []byte) error {
	v, err := l.need(id, asn1.TagOctetString)
	if err != nil {
		return err
	}
	if v.IsCompound || len(v.Bytes) != len(to) {
		return refuseDER(fmt.Sprintf("%s .%d", l.what, id), fmt.Sprintf("%d bytes", len(v.Bytes)), fmt.Sprint(len(to)))
	}
	copy(to, v.Bytes)
	return nil
}
