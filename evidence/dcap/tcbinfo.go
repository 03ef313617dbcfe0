package dcap

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
)

// period is when a document holds.
type period struct{ issued, next time.Time }

func readPeriod(m *members) period {
	p := period{m.time("issueDate"), m.time("nextUpdate")}
	if m.err == nil && !p.next.After(p.issued) {
		m.fail("nextUpdate", stamp(p.next), "after "+stamp(p.issued))
	}
	return p
}

// graded is what every level says of itself.
type graded struct {
	status     Status
	date       time.Time
	advisories []string
}

func readGraded(m *members) graded { return graded{m.status(), m.time("tcbDate"), m.advisories()} }

// svnLevel is a level of an enclave or a TDX module: it holds from an ISVSVN on.
type svnLevel struct {
	isvsvn uint16
	graded
}

func readSVNLevels(m *members) []svnLevel {
	var out []svnLevel
	m.list("tcbLevels", 1, maxLevels, func(l *members) {
		tcb := l.object("tcb")
		out = append(out, svnLevel{uint16(tcb.number("isvsvn", 16)), readGraded(l)})
		l.join(&tcb)
	})
	return out
}

// matchSVN finds the first level that an SVN meets: Intel lists the newest first.
func matchSVN(what string, levels []svnLevel, svn uint16) (graded, error) {
	for _, l := range levels {
		if svn >= l.isvsvn {
			return l.graded, nil
		}
	}
	return graded{}, evidence.Refuse(evidence.CodeTCB, "ISVSVN of the "+what, fmt.Sprint(svn), "one of the levels that Intel lists")
}

// tcbInfo is what Intel knows of the platforms of one FMSPC: version 3 of the document.
type tcbInfo struct {
	period
	doc        *document
	tee        TEE
	fmspc      [6]byte
	pceid      [2]byte
	evaluation uint32
	base       ModuleIdentity           // of the first line of TDX modules
	modules    map[uint8]ModuleIdentity // of later lines, by major version
	levels     []tcbLevel
}

// tcbLevel is a level of the platform: all of sgx, pcesvn and, of a TD, tdx are to be met.
type tcbLevel struct {
	sgx, tdx [16]uint8
	pcesvn   uint16
	graded
}

// ModuleIdentity is how Intel describes a line of TDX modules.
type ModuleIdentity struct {
	ID             string   // "TDX_03" for major version 3; empty for the first line
	MRSigner       [48]byte // MRSIGNERSEAM; zeros for Intel
	Attributes     [8]byte  // SEAMATTRIBUTES under the mask, as in a quote's body
	AttributesMask [8]byte
	levels         []svnLevel
}

// Match checks a quote's MRSIGNERSEAM and SEAMATTRIBUTES. Refusals have the code refuse/tcb.
func (m ModuleIdentity) Match(mrSignerSeam [48]byte, seamAttributes [8]byte) error {
	if mrSignerSeam != m.MRSigner {
		return evidence.Refuse(evidence.CodeTCB, "MRSIGNERSEAM", hex.EncodeToString(mrSignerSeam[:]), hex.EncodeToString(m.MRSigner[:]))
	}
	if !masked(seamAttributes[:], m.AttributesMask[:], m.Attributes[:]) {
		return evidence.Refuse(evidence.CodeTCB, "SEAMATTRIBUTES", hex.EncodeToString(seamAttributes[:]),
			hex.EncodeToString(m.Attributes[:])+" under the mask "+hex.EncodeToString(m.AttributesMask[:]))
	}
	return nil
}

// masked tells whether got under a mask is want. All have one length.
func masked(got, mask, want []byte) bool {
	for i := range want {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

func parseTCBInfo(raw []byte) (*tcbInfo, error) {
	doc, err := parseDocument("tcbInfo", raw)
	if err != nil {
		return nil, err
	}
	t, m := &tcbInfo{doc: doc, modules: map[uint8]ModuleIdentity{}}, &doc.members
	if v := m.number("version", 32); m.err == nil && v != 3 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "version of the TCB info", fmt.Sprint(v), "3")
	}
	switch id := m.text("id"); {
	case m.err != nil:
	case id == "SGX":
		t.tee = SGX
	case id == "TDX":
		t.tee = TDX
	default:
		return nil, evidence.Refuse(evidence.CodeUnsupported, "id of the TCB info", id, "SGX or TDX")
	}
	if kind := m.number("tcbType", 32); m.err == nil && kind != 0 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "TCB type", fmt.Sprint(kind), "0, by components")
	}
	t.period = readPeriod(m)
	m.hex("fmspc", t.fmspc[:])
	m.hex("pceId", t.pceid[:])
	t.evaluation = uint32(m.number("tcbEvaluationDataNumber", 32))
	if t.tee == TDX {
		t.readModules(m)
	}
	m.list("tcbLevels", 1, maxLevels, func(l *members) {
		tcb := l.object("tcb")
		level := tcbLevel{sgx: readComponents(&tcb, "sgxtcbcomponents"), pcesvn: uint16(tcb.number("pcesvn", 16)), graded: readGraded(l)}
		if t.tee == TDX {
			level.tdx = readComponents(&tcb, "tdxtcbcomponents")
		}
		l.join(&tcb)
		t.levels = append(t.levels, level)
	})
	if m.err != nil {
		return nil, m.err
	}
	return t, nil
}

func readComponents(m *members, name string) (out [16]uint8) {
	i := 0
	m.list(name, 16, 16, func(c *members) { out[i] = uint8(c.number("svn", 8)); i++ })
	return out
}

func (t *tcbInfo) readModules(m *members) {
	base := m.object("tdxModule")
	t.base = readModule(&base)
	m.join(&base)
	if !m.has("tdxModuleIdentities") {
		return // documents of before 2023 have none: TDs on later modules are then refused
	}
	m.list("tdxModuleIdentities", 0, maxLevels, func(l *members) {
		id := l.text("id")
		version, err := hex.DecodeString(strings.TrimPrefix(id, "TDX_"))
		if err != nil || len(version) != 1 || len(id) != len("TDX_00") {
			l.fail("id", fmt.Sprintf("%.20q", id), "TDX_ and two hexadecimal digits")
			return
		}
		if _, twice := t.modules[version[0]]; twice {
			l.fail("id", id+" twice", "once")
			return
		}
		identity := readModule(l)
		identity.ID, identity.levels = id, readSVNLevels(l)
		t.modules[version[0]] = identity
	})
}

func readModule(m *members) (out ModuleIdentity) {
	m.hex("mrsigner", out.MRSigner[:])
	m.hex("attributes", out.Attributes[:])
	m.hex("attributesMask", out.AttributesMask[:])
	return out
}

// match finds the platform's level as Intel's API documentation says: the first one whose SGX components and PCESVN the PCK
// meets and, of a TD, whose TDX components the TEE TCB SVNs meet. From major version 1 of the TDX module on
// (byte 1), the module's two components are left to its own identity.
func (t *tcbInfo) match(p *PCK, teeTCBSVN [16]byte) (int, error) {
	first := 0
	if teeTCBSVN[1] > 0 {
		first = 2
	}
	i := slices.IndexFunc(t.levels, func(l tcbLevel) bool {
		return meets(p.SGXTCB[:], l.sgx[:]) && p.PCESVN >= l.pcesvn && (t.tee == SGX || meets(teeTCBSVN[first:], l.tdx[first:]))
	})
	if i < 0 {
		return 0, evidence.Refuse(evidence.CodeTCB, "TCB of the platform", fmt.Sprintf("SGX %x, PCE %d, TDX %x", p.SGXTCB, p.PCESVN, teeTCBSVN), "one of the levels that Intel lists")
	}
	return i, nil
}

func meets(got, level []uint8) bool {
	for i := range level {
		if got[i] < level[i] {
			return false
		}
	}
	return true
}
