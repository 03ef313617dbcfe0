package envelope

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// openTSM takes what Linux's configfs-tsm gives: outblob is the report or quote, auxblob the certificate table that an
// SNP host gave, provider the driver's name. The name must fit what the blob is.
func openTSM(outblob, auxblob []byte, provider string) (*Evidence, error) {
	if len(outblob) == 0 {
		return nil, malformed("configfs-tsm outblob", "nothing", "a report or a quote")
	}
	ev, err := openBinary(outblob)
	if err != nil {
		return nil, err
	}
	want := map[Form]string{FormSNPReport: "sev_guest", FormTDQuote: "tdx_guest"}[ev.Form]
	if got := strings.TrimSpace(provider); want == "" || got != want {
		return nil, unsupported("configfs-tsm provider", fmt.Sprintf("%.32q with a %s", got, ev.Form), "sev_guest with an SNP report or tdx_guest with a TD quote")
	}
	ev.Form = FormTSM
	if len(auxblob) > 0 {
		if ev.SNP == nil {
			return nil, unsupported("configfs-tsm auxblob", fmt.Sprintf("%d bytes with a TD quote", len(auxblob)), "nothing")
		}
		if ev.Certificates, err = certificateTable(auxblob); err != nil {
			return nil, err
		}
	}
	return ev, nil
}

// Major types of CBOR (RFC 8949, section 3.1).
const (
	cborBytes = 2
	cborText  = 3
	cborMap   = 5
)

// openTSMCBOR reads a map of the three members, with sizes in front. Nothing else of CBOR is needed.
func openTSMCBOR(raw []byte) (*Evidence, error) {
	c := &cbor{rest: raw}
	members := c.size(cborMap)
	if c.err == nil && (members < 2 || members > 3) {
		c.fail("members", fmt.Sprint(members), "outblob, auxblob, provider")
	}
	blobs := map[string][]byte{}
	for i := uint64(0); i < members && c.err == nil; i++ {
		name := string(c.take(cborText))
		if _, twice := blobs[name]; twice {
			c.fail("member", fmt.Sprintf("%.32q twice", name), "once")
		}
		switch name {
		case "outblob", "auxblob":
			blobs[name] = c.take(cborBytes)
		case "provider":
			blobs[name] = c.take(cborText)
			if !utf8.Valid(blobs[name]) {
				c.fail("provider", "bytes that are not UTF-8", "text")
			}
		default:
			c.fail("member", fmt.Sprintf("%.32q", name), "outblob, auxblob or provider")
		}
	}
	if c.err == nil && len(c.rest) > 0 {
		c.fail("end", fmt.Sprintf("%d bytes behind the map", len(c.rest)), "none")
	}
	if c.err != nil {
		return nil, c.err
	}
	return openTSM(blobs["outblob"], blobs["auxblob"], string(blobs["provider"]))
}

type cbor struct {
	rest []byte
	err  error
}

func (c *cbor) fail(field, got, want string) {
	if c.err == nil {
		c.err = malformed("configfs-tsm "+field, got, want)
	}
}

// size reads an item's head: its major type and a definite size in the shortest form.
func (c *cbor) size(major byte) uint64 {
	if c.err != nil || len(c.rest) == 0 || c.rest[0]>>5 != major {
		c.fail("item", "another type, or an end", fmt.Sprintf("CBOR major type %d", major))
		return 0
	}
	info := c.rest[0] & 0x1f
	c.rest = c.rest[1:]
	if info < 24 {
		return uint64(info)
	}
	n := map[byte]int{24: 1, 25: 2, 26: 4, 27: 8}[info]
	if n == 0 || n > len(c.rest) {
		c.fail("item", "a size that is cut off or indefinite", "a definite size")
		return 0
	}
	var v uint64
	for _, b := range c.rest[:n] {
		v = v<<8 | uint64(b)
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cbor) take(major byte) []byte {
	n := c.size(major)
	if c.err == nil && n > uint64(len(c.rest)) {
		c.fail("item", fmt.Sprintf("%d bytes", n), "inside the map")
	}
	if c.err != nil {
		return nil
	}
	out := c.rest[:n]
	c.rest = c.rest[n:]
	return out
}
