package sevsnp

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"
)

// Extensions of VCEK and VLEK certificates, below AMD's arc 1.3.6.1.4.1.3704.1.
var (
	oidStructVersion = amdOID(1)
	oidProduct       = amdOID(2)
	oidBootLoader    = amdOID(3, 1)
	oidTEE           = amdOID(3, 2)
	oidSNP           = amdOID(3, 3)
	oidMicrocode     = amdOID(3, 8)
	oidFMC           = amdOID(3, 9)
	oidHWID          = amdOID(4)
	oidCSPID         = amdOID(5)
)

// oidReservedSVN are levels that no firmware uses yet; where present they must be zero.
var oidReservedSVN = []asn1.ObjectIdentifier{amdOID(3, 4), amdOID(3, 5), amdOID(3, 6), amdOID(3, 7)}

func amdOID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

// leafClaims is what a VCEK or VLEK says of its chip.
type leafClaims struct {
	product Product
	tcb     TCB
	hwid    []byte // VCEK: 64 bytes, on Turin 8; VLEK: nil
	csp     string // VLEK only
}

// parseLeaf reads the extensions. Each one needed must be there, once, in strict DER.
func parseLeaf(cert *x509.Certificate, kind SigningKey) (leafClaims, error) {
	var out leafClaims
	values := map[string][]byte{}
	for _, e := range cert.Extensions {
		id := e.Id.String()
		if _, twice := values[id]; twice {
			return out, refuseChain("extension "+id, "twice", "once")
		}
		values[id] = e.Value
	}
	name, err := ia5(values, oidProduct)
	if err != nil {
		return out, err
	}
	if kind == SignedByVCEK {
		name, _, _ = strings.Cut(name, "-") // "Milan-B0": the line and the stepping
	}
	out.product = Product(name)
	if _, err := svn(values, oidStructVersion); err != nil {
		return out, err
	}
	levels := []struct {
		oid asn1.ObjectIdentifier
		to  *uint8
	}{{oidBootLoader, &out.tcb.BootLoader}, {oidTEE, &out.tcb.TEE}, {oidSNP, &out.tcb.SNP}, {oidMicrocode, &out.tcb.Microcode}}
	if out.product == Turin {
		levels = append(levels, struct {
			oid asn1.ObjectIdentifier
			to  *uint8
		}{oidFMC, &out.tcb.FMC})
	}
	for _, l := range levels {
		if *l.to, err = svn(values, l.oid); err != nil {
			return out, err
		}
	}
	for _, oid := range oidReservedSVN {
		if _, there := values[oid.String()]; !there {
			continue
		}
		if v, err := svn(values, oid); err != nil || v != 0 {
			return out, refuseChain("extension "+oid.String(), hex.EncodeToString(values[oid.String()]), "zero")
		}
	}
	hwid, hasHWID := values[oidHWID.String()]
	_, hasCSP := values[oidCSPID.String()]
	switch kind {
	case SignedByVCEK:
		want := 64
		if out.product == Turin {
			want = 8
		}
		if len(hwid) != want || hasCSP {
			return out, refuseChain("hardware id of the VCEK", fmt.Sprintf("%d bytes", len(hwid)), fmt.Sprintf("%d bytes, and no provider id", want))
		}
		out.hwid = hwid
	case SignedByVLEK:
		if hasHWID {
			return out, refuseChain("hardware id of the VLEK", "present", "absent")
		}
		if out.csp, err = ia5(values, oidCSPID); err != nil {
			return out, err
		}
	}
	return out, nil
}

// svn reads a DER INTEGER of 0 to 255: one byte, or a zero and a byte from 0x80.
func svn(values map[string][]byte, oid asn1.ObjectIdentifier) (uint8, error) {
	b, ok := values[oid.String()]
	switch {
	case !ok:
		return 0, refuseChain("extension "+oid.String(), "absent", "a level")
	case len(b) == 3 && b[0] == 2 && b[1] == 1 && b[2] < 0x80:
		return b[2], nil
	case len(b) == 4 && b[0] == 2 && b[1] == 2 && b[2] == 0 && b[3] >= 0x80:
		return b[3], nil
	}
	return 0, refuseChain("extension "+oid.String(), hex.EncodeToString(b), "a DER INTEGER from 0 to 255")
}

// ia5 reads a short DER IA5String.
func ia5(values map[string][]byte, oid asn1.ObjectIdentifier) (string, error) {
	b, ok := values[oid.String()]
	if !ok {
		return "", refuseChain("extension "+oid.String(), "absent", "a name")
	}
	bad := func() (string, error) {
		return "", refuseChain("extension "+oid.String(), hex.EncodeToString(b), "a DER IA5String of 1 to 127 characters")
	}
	if len(b) < 3 || b[0] != 0x16 || b[1] >= 0x80 || int(b[1]) != len(b)-2 {
		return bad()
	}
	for _, c := range b[2:] {
		if c < 0x20 || c > 0x7e {
			return bad()
		}
	}
	return string(b[2:]), nil
}
