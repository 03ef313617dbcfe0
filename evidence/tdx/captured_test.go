package tdx

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// What Intel's library and others read out of one captured quote, member by member.
func TestTDX13PublishedValues(t *testing.T) {
	q, err := ParseQuote(vector(t, "tdx-trustee/tdx_quote_4.dat"))
	if err != nil {
		t.Fatal(err)
	}
	var published struct {
		Quote struct {
			Body map[string]string `json:"body"`
		} `json:"quote"`
	}
	if err := json.Unmarshal(vector(t, "tdx-trustee/parse_tdx_claims_expected.json"), &published); err != nil {
		t.Fatal(err)
	}
	b := q.Body
	number := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	for name, got := range map[string][]byte{
		"mr_config_id": b.MRConfigID[:], "mr_owner": b.MROwner[:], "mr_owner_config": b.MROwnerConfig[:], "mr_seam": b.MRSeam[:], "mr_td": b.MRTD[:], "mrsigner_seam": b.MRSignerSeam[:],
		"report_data": b.ReportData[:], "rtmr_0": b.RTMR[0][:], "rtmr_1": b.RTMR[1][:], "rtmr_2": b.RTMR[2][:], "rtmr_3": b.RTMR[3][:], "seam_attributes": b.SeamAttributes[:],
		"td_attributes": number(uint64(b.TDAttributes)), "xfam": number(b.XFAM), "tcb_svn": b.TEETCBSVN[:],
	} {
		want, ok := published.Quote.Body[name]
		if !ok || hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, published as %q", name, got, want)
		}
	}
}

func TestCapturedReports(t *testing.T) {
	if _, err := ParseReport(vector(t, "tdx-trustee/tdx_report_1.bin")); err != nil {
		t.Error(err)
	}
	// A sample that is no TD's report: its type says so.
	if _, err := ParseReport(vector(t, "tdx-gotdxguest/report.dat")); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("1,024 bytes of another type: %v", err)
	}
	// A TD report inside an HCL report, and the quote that was made of it.
	slot := vector(t, "az-tdx-vtpm-evidence/hcl-report.bin")[32 : 32+ReportSize]
	r, err := ParseReport(slot)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseQuote(vector(t, "az-tdx-vtpm-evidence/td-quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.QuotedBy(q); err != nil {
		t.Error(err)
	}
	other, err := ParseQuote(vector(t, "tdx-quote-azure-cvmtools/td_quote_v4.dat"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.QuotedBy(other); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("another TD's quote: %v", err)
	}
}

func TestCapturedLogs(t *testing.T) {
	var published map[string]struct {
		Values map[string]string `json:"mr_index_to_value"`
	}
	if err := json.Unmarshal(vector(t, "launch/ccel-logs/expected.json"), &published); err != nil {
		t.Fatal(err)
	}
	if len(published) < 6 {
		t.Fatalf("%d logs", len(published))
	}
	for file, want := range published {
		raw := vector(t, filepath.Join("launch/ccel-logs", file))
		got, _, err := ReplayCCEL(raw)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for index, value := range want.Values {
			n, err := strconv.Atoi(index)
			if err != nil || hex.EncodeToString(got[n-1][:]) != value {
				t.Errorf("%s: RTMR %d is %x, published as %s", file, n-1, got[n-1], value)
			}
		}
		for _, cut := range []int{0, 20, 40, 100, 500} {
			if _, _, err := ReplayCCEL(raw[:cut]); err == nil && cut < 70 {
				t.Errorf("TPM-06 %s cut after %d bytes was read", file, cut)
			}
		}
		if _, err := ParseCCEL(append(bytes.Clone(raw), 1, 2, 3, 4)); err == nil {
			t.Errorf("%s with other bytes after its end was read", file)
		}
	}
	q, err := ParseQuote(vector(t, "tdx-ccel-gcp-cos113/cos-113-tdx-quote.dat"))
	if err != nil {
		t.Fatal(err)
	}
	log := vector(t, "tdx-ccel-gcp-cos113/ccel_data.dat")
	events, err := CheckCCEL(log, q.Body.RTMR)
	if err != nil || len(events) == 0 {
		t.Fatal(err)
	}
	other := q.Body.RTMR
	other[2][0] ^= 1
	if _, err := CheckCCEL(log, other); evidence.CodeOf(err) != evidence.CodeMeasurement {
		t.Errorf("TPM-06 a log that does not explain RTMR 2: %v", err)
	}
	dupe := vector(t, "launch/ccel-logs/cos-113-intel-tdx-dupe-separator-unpadded.bin")
	values, _, err := ReplayCCEL(dupe)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckCCEL(dupe, values); evidence.CodeOf(err) != evidence.CodeMeasurement {
		t.Errorf("TPM-04 a second separator: %v", err)
	}
}

// Quotes of a TD whose log was kept beside them: the registers are those published, and Intel's root signed them.
func TestTDX13QuotesWithLogs(t *testing.T) {
	var published map[string]struct {
		MRTD       string   `json:"mrtd"`
		MRConfigID string   `json:"mrconfigid"`
		RTMRs      []string `json:"rtmrs"`
	}
	if err := json.Unmarshal(vector(t, "launch/tdx-quote-with-log/expected.json"), &published); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range []string{"quote-report.json", "tdx-lite-getquote.json"} {
		want, ok := published[file]
		if !ok || len(want.RTMRs) != 4 {
			t.Fatalf("%s: nothing is published", file)
		}
		var captured struct {
			Quote string `json:"quote"`
		}
		if err := json.Unmarshal(vector(t, "launch/tdx-quote-with-log/"+file), &captured); err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(captured.Quote)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{hex.EncodeToString(q.Body.MRTD[:]), hex.EncodeToString(q.Body.MRConfigID[:])}
		for _, r := range q.Body.RTMR {
			got = append(got, hex.EncodeToString(r[:]))
		}
		if want := append([]string{want.MRTD, want.MRConfigID}, want.RTMRs...); !slices.Equal(got, want) {
			t.Errorf("%s: %q, published as %q", file, got, want)
		}
		// Its platform was certified in 2025 and 2026.
		if a, err := Authenticate(q, dcap.Options{At: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}); err != nil || a.Root() != evidence.RootIntel {
			t.Errorf("%s: %v", file, err)
		}
		seen++
	}
	if seen != len(published) {
		t.Errorf("%d of %d quotes", seen, len(published))
	}
}
