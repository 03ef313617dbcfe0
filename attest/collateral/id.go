package collateral

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Kinds of endorsements.
const (
	KindVCEK        = "vcek"        // vcek/PRODUCT/HWID/TCB: a chip's certificate
	KindVLEK        = "vlek"        // vlek/PRODUCT/TCB: a provider's certificate, which AMD gives to the provider alone
	KindAuthorities = "authorities" // authorities/PRODUCT/vcek or vlek: ASK or ASVK, and ARK
	KindCRL         = "crl"         // crl/PRODUCT/vcek or vlek: AMD's revocation list
	KindTCB         = "tcb"         // tcb/tdx or sgx/FMSPC: TCB info of a family of platforms
	KindQE          = "qe"          // qe/tdx or sgx: the quoting enclave's identity
	KindPCKCRL      = "pckcrl"      // pckcrl/platform or processor: Intel's revocation list of platforms
	KindRootCRL     = "rootcrl"     // rootcrl: Intel's revocation list of authorities
)

// ID names one endorsement. It is made of values of fixed forms only; ParseID and the functions below make it.
type ID struct{ text string }

var idForms = regexp.MustCompile(`^(vcek/(Milan|Genoa)/[0-9a-f]{128}/[0-9a-f]{16}|vcek/Turin/[0-9a-f]{16}/[0-9a-f]{16}|` +
	`vlek/(Milan|Genoa|Turin)/[0-9a-f]{16}|(authorities|crl)/(Milan|Genoa|Turin)/(vcek|vlek)|` +
	`tcb/(tdx|sgx)/[0-9a-f]{12}|qe/(tdx|sgx)|pckcrl/(platform|processor)|rootcrl)$`)

// ParseID reads an ID's text.
func ParseID(text string) (ID, error) {
	if !idForms.MatchString(text) {
		return ID{}, evidence.Refuse(evidence.CodeParse, "endorsement", fmt.Sprintf("%.80q", text), "such as vcek/Milan/HWID/TCB, crl/Milan/vcek, tcb/tdx/FMSPC, qe/tdx, pckcrl/platform or rootcrl")
	}
	return ID{text}, nil
}

// VCEK names the certificate of a chip at a TCB. On Turin the hardware id is the first 8 bytes of the chip id.
func VCEK(p sevsnp.Product, chip [64]byte, tcb sevsnp.TCB) (ID, error) {
	n := len(chip)
	if p == sevsnp.Turin {
		n = 8
	}
	return ParseID(strings.Join([]string{KindVCEK, string(p), hex.EncodeToString(chip[:n]), tcb.Hex(p)}, "/"))
}

// VLEK names a provider's certificate at a TCB.
func VLEK(p sevsnp.Product, tcb sevsnp.TCB) (ID, error) {
	return ParseID(strings.Join([]string{KindVLEK, string(p), tcb.Hex(p)}, "/"))
}

// ForProduct names what all chips of a product share: the authorities and the revocation list.
func ForProduct(p sevsnp.Product, key sevsnp.SigningKey) (authorities, crl ID, err error) {
	of := "/" + string(p) + "/" + strings.ToLower(key.String())
	if authorities, err = ParseID(KindAuthorities + of); err != nil {
		return ID{}, ID{}, err
	}
	crl, err = ParseID(KindCRL + of)
	return authorities, crl, err
}

// ForPlatform names the four endorsements of Intel platforms: of a family (FMSPC), for quotes of a kind ("tdx" or "sgx"),
// with a PCK of a CA ("platform" or "processor").
func ForPlatform(tee string, fmspc [6]byte, ca string) ([4]ID, error) {
	var out [4]ID
	for i, text := range []string{KindTCB + "/" + tee + "/" + hex.EncodeToString(fmspc[:]), KindQE + "/" + tee, KindPCKCRL + "/" + ca, KindRootCRL} {
		id, err := ParseID(text)
		if err != nil {
			return out, err
		}
		out[i] = id
	}
	return out, nil
}

func (i ID) String() string { return i.text }

// Kind is the first part.
func (i ID) Kind() string { return i.part(0) }

func (i ID) part(n int) string {
	if parts := strings.Split(i.text, "/"); n < len(parts) {
		return parts[n]
	}
	return ""
}

func (i ID) key() sevsnp.SigningKey {
	if i.Kind() == KindVLEK || i.part(2) == KindVLEK {
		return sevsnp.SignedByVLEK
	}
	return sevsnp.SignedByVCEK
}

// changes tells whether there will be newer ones: documents and lists, but not certificates.
func (i ID) changes() bool {
	switch i.Kind() {
	case KindVCEK, KindVLEK, KindAuthorities:
		return false
	}
	return true
}

// file is the name below the folder: the kind for people, then a digest, so that no part of an id is a part of a path.
func (i ID) file() string {
	sum := sha256.Sum256([]byte(i.text))
	name := i.Kind() + "-" + hex.EncodeToString(sum[:16])
	switch i.Kind() {
	case KindAuthorities:
		return name + ".pem"
	case KindTCB, KindQE:
		return name + ".json"
	case KindCRL, KindPCKCRL, KindRootCRL:
		return name + ".crl"
	}
	return name + ".der"
}

// issuersFile is where the chain that came with it is, for Intel's endorsements.
func (i ID) issuersFile() string {
	name, _, _ := strings.Cut(i.file(), ".")
	return name + ".issuers.pem"
}
