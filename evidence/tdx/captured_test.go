package tdx

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

func vector(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED: real evidence is missing: %s (set CLOISTER_VECTORS)", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".hex") {
		if raw, err = hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(raw)), "0x")); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

type capturedQuote struct {
	file    string
	version uint16
	body    BodyType
	padding bool
	fmspc   string
	mrtd    string
	debug   bool
	at      string // when it was in force; "" is 2025-10-20
}

func (c capturedQuote) when(t *testing.T) time.Time {
	t.Helper()
	if c.at == "" {
		c.at = "2025-10-20"
	}
	at, err := time.Parse(time.DateOnly, c.at)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// The quotes that others captured, and what their sources published of them.
var captured = []capturedQuote{
	{"dcap-automata/quote_tdx.bin", 4, BodyTDX10, true, "00806f050000", "", false, ""},
	{"dcap-automata/alibaba_quote_5.dat", 5, BodyTDX15, false, "90c06f000000", "", false, ""},
	{"dcap-automata/tdx_quote_5.dat", 5, BodyTDX15, false, "90c06f000000", "", false, ""},
	{"dcap-quotes-with-collateral/tdx_quote", 4, BodyTDX10, true, "b0c06f000000", "", false, ""},
	{"dcap-quotes-with-collateral/tdx_quote_outdated", 5, BodyTDX15, false, "90c06f000000", "273828c4", false, "2026-03-01"},
	{"dcap-quotes-with-collateral/tdx-quote.hex", 4, BodyTDX10, true, "", "", false, ""},
	{"dcap-quotes-with-collateral/quote-from-tappd.hex", 4, BodyTDX10, true, "", "", false, ""},
	{"tdx-gotdxguest/quote_v5_sample.dat", 5, BodyTDX15, false, "90c06f000000", "", false, "2026-03-01"},
	{"tdx-gotdxguest/tdx_prod_quote_SPR_E4.dat", 4, BodyTDX10, true, "50806f000000", "", false, ""},
	{"tdx-quote-azure-cvmtools/td_quote_v4.dat", 4, BodyTDX10, true, "90c06f000000", "888b31b5", false, ""},
	{"tdx-quote-azure-cvmtools/td_quote_v5.dat", 5, BodyTDX15, false, "90c06f000000", "273828c4", false, ""},
	{"tdx-trustee/tdx_quote_4.dat", 4, BodyTDX10, false, "50806f000000", "705ee938", true, ""},
	{"tdx-trustee/tdx_quote_5.dat", 5, BodyTDX15, false, "90c06f000000", "", false, ""},
	{"tdx-trustee/tdx_quote_6.dat", 4, BodyTDX10, true, "00a06d080000", "", false, ""},
	{"az-tdx-vtpm-evidence/td-quote.bin", 4, BodyTDX10, true, "00806f050000", "", false, ""},
	{"tdx-ccel-gcp-cos113/cos-113-tdx-quote.dat", 4, BodyTDX10, true, "00806f050000", "", false, ""},
}

func TestTDX13CapturedQuotes(t *testing.T) {
	for _, r := range captured {
		t.Run(r.file, func(t *testing.T) {
			raw := vector(t, r.file)
			q, err := ParseQuote(raw)
			if err != nil {
				t.Fatal(err)
			}
			if q.Version != r.version || r.body != 0 && q.BodyType != r.body || r.padding != (q.Padding > 0) || q.Body.TDAttributes.Has(Debug) != r.debug {
				t.Errorf("version %d, body %d, padding %d, attributes %s", q.Version, q.BodyType, q.Padding, q.Body.TDAttributes)
			}
			if got := hex.EncodeToString(q.Body.MRTD[:]); !strings.HasPrefix(got, r.mrtd) {
				t.Errorf("MRTD %s, want %s…", got, r.mrtd)
			}
			a, err := Authenticate(q, dcap.Options{At: r.when(t)})
			if err != nil {
				t.Fatal(err)
			}
			if got := a.PCK().FMSPC; r.fmspc != "" && hex.EncodeToString(got[:]) != r.fmspc {
				t.Errorf("FMSPC %x, want %s", got, r.fmspc)
			}
			if a.Root() != evidence.RootIntel {
				t.Errorf("root %s", a.Root())
			}
		})
	}
}
