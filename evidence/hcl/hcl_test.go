package hcl_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
)

// vector reads real evidence, which is not part of the repository.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		t.Skipf("SKIPPED, NOT TESTED: vector %s is missing; set CLOISTER_VECTORS", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nvRead takes the HCL report out of an evidence file of one of three forms.
func nvRead(t testing.TB, name string) []byte {
	raw := vector(t, name)
	if !strings.HasSuffix(name, ".json") {
		return raw
	}
	var f struct {
		Report []uint16 `json:"report"`
		HCL    string   `json:"hcl_report"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	if f.HCL != "" {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(f.HCL, "="))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	out := make([]byte, len(f.Report))
	for i, v := range f.Report {
		out[i] = byte(v)
	}
	return out
}

func TestRealReports(t *testing.T) {
	for _, r := range []struct {
		name    string
		version uint32
		kind    hcl.ReportType
		ek      bool
	}{
		{"az-snp-vtpm-evidence/hcl-report.bin", 1, hcl.TypeSNP, true},
		{"az-snp-vtpm-evidence/evidence-v0.json", 1, hcl.TypeSNP, true},
		{"az-snp-vtpm-evidence/evidence-v1.json", 1, hcl.TypeSNP, true},
		{"az-snp-vtpm-evidence/evidence-v2.json", 1, hcl.TypeSNP, true},
		{"az-snp-vtpm-evidence/evidence-genoa.json", 2, hcl.TypeSNP, true},
		{"hcl-snp-milan/hcl-report-snp-2048.bin", 1, hcl.TypeSNP, false},
		{"hcl-tdx/hcl-report-tdx.bin", 2, hcl.TypeTDX, true},
		{"hcl-tdx-cvmtools/snp_hcl_report.bin", 2, hcl.TypeTDX, true},
		{"az-tdx-vtpm-evidence/hcl-report.bin", 2, hcl.TypeTDX, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			raw := nvRead(t, r.name)
			got, err := hcl.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != r.version || got.Type != r.kind {
				t.Errorf("version %d type %v", got.Version, got.Type)
			}
			if err := got.CheckBinding(); err != nil {
				t.Error(err)
			}
			again, err := got.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, bytes.TrimRight(raw, "\x00")) {
				t.Error("Marshal gave other bytes")
			}
			claims, err := hcl.ParseClaims(got.Claims)
			if err != nil {
				t.Fatal(err)
			}
			text, err := claims.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(text, got.Claims) {
				t.Errorf("claims came back as\n%s\nwant\n%s", text, got.Claims)
			}
			if _, err := claims.RSAKey(hcl.KeyAK); err != nil {
				t.Error(err)
			}
			if _, err := claims.RSAKey(hcl.KeyEK); (err == nil) != r.ek {
				t.Errorf("EK: %v", err)
			}
			snp, snpErr := got.SNPReport()
			td, tdErr := got.TDReport()
			if r.kind == hcl.TypeSNP && (len(snp) != hcl.HardwareSize || snpErr != nil || evidence.CodeOf(tdErr) != evidence.CodeUnsupported) ||
				r.kind == hcl.TypeTDX && (len(td) != hcl.TDReportSize || td[0] != 0x81 || tdErr != nil || evidence.CodeOf(snpErr) != evidence.CodeUnsupported) {
				t.Errorf("TDX-27 as SNP: %d bytes, %v; as TDX: %d bytes, %v", len(snp), snpErr, len(td), tdErr)
			}
			for _, other := range []hcl.ReportType{hcl.TypeVBS, hcl.TypeSNP, hcl.TypeTVM, hcl.TypeTDX, hcl.TypeCCA, 0, 6} {
				retagged := bytes.Clone(raw)
				binary.LittleEndian.PutUint32(retagged[1224:], uint32(other))
				if _, err := hcl.Parse(retagged); (err == nil) != (other == r.kind) {
					t.Errorf("TDX-27 called %v: %v", other, err)
				}
			}
			if r.kind == hcl.TypeTDX {
				for _, at := range []int{hcl.TDReportSize, hcl.HardwareSize - 1} {
					behind := bytes.Clone(raw)
					behind[32+at] = 1
					if _, err := hcl.Parse(behind); evidence.CodeOf(err) != evidence.CodeParse {
						t.Errorf("a byte at %d behind the TDREPORT: %v", at, err)
					}
				}
			}
			bad := *got
			bad.Claims = bytes.Clone(got.Claims)
			for i := range bad.Claims {
				bad.Claims[i] ^= 1
				if evidence.CodeOf(bad.CheckBinding()) != evidence.CodeBinding {
					t.Fatalf("byte %d of the claims is not bound", i)
				}
				bad.Claims[i] ^= 1
			}
			if bad.Hardware = bytes.Clone(got.Hardware); r.kind == hcl.TypeSNP {
				bad.Hardware[0x50+40] = 1
			} else {
				bad.Hardware[128+40] = 1
			}
			if evidence.CodeOf(bad.CheckBinding()) != evidence.CodeBinding {
				t.Error("the upper half of the report data is not looked at")
			}
		})
	}
}

// made is a well-formed report of our own, with 100 bytes of padding.
func made(t testing.TB) []byte {
	c := hcl.RuntimeClaims{VMConfiguration: hcl.VMConfiguration{VMUniqueID: "X"}, UserData: strings.Repeat("0", 128)}
	claims, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	hw := make([]byte, hcl.HardwareSize)
	hw[0] = 3
	data := hcl.ReportData(claims)
	copy(hw[0x50:], data[:])
	raw, err := (&hcl.Report{Version: 2, Type: hcl.TypeSNP, Hardware: hw, Claims: claims}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, make([]byte, 100)...)
}

func TestParseRefuses(t *testing.T) {
	good := made(t)
	if r, err := hcl.Parse(good); err != nil || r.CheckBinding() != nil {
		t.Fatal("the positive twin is refused", err)
	}
	word := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	for _, r := range []struct {
		name string
		make func([]byte) []byte
		want evidence.Code
	}{
		{"signature", word(0, 0), evidence.CodeParse},
		{"version 0", word(4, 0), evidence.CodeUnsupported},
		{"version 3", word(4, 3), evidence.CodeUnsupported},
		{"size of the hardware report alone", word(8, 1184), evidence.CodeParse},
		{"request type", word(12, 1), evidence.CodeParse},
		{"status", word(16, 1), evidence.CodeParse},
		{"reserved", word(28, 1), evidence.CodeParse},
		{"data size", word(1216, 20), evidence.CodeParse},
		{"data version with a capability word", word(1220, 2), evidence.CodeUnsupported},
		{"TDX type over an SNP report", word(1224, 4), evidence.CodeParse},
		{"trusted launch", word(1224, 3), evidence.CodeUnsupported},
		{"VBS", word(1224, 1), evidence.CodeUnsupported},
		{"type 0", word(1224, 0), evidence.CodeUnsupported},
		{"hash SHA-384", word(1228, 2), evidence.CodeUnsupported},
		{"no claims", word(1232, 0), evidence.CodeParse},
		{"claims beyond the buffer", word(1232, 1<<15), evidence.CodeParse},
		{"claims size that wraps", word(1232, 0xffffffff), evidence.CodeParse},
		{"SNP type over a TDREPORT", func(b []byte) []byte { b[32] = 0x81; return b }, evidence.CodeParse},
		{"padding", func(b []byte) []byte { b[len(b)-1] = 1; return b }, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := hcl.Parse(r.make(bytes.Clone(good))); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
	end := len(bytes.TrimRight(good, "\x00"))
	for n := range end {
		if _, err := hcl.Parse(good[:n]); evidence.CodeOf(err) != evidence.CodeParse {
			t.Fatalf("prefix of %d bytes: %v", n, err)
		}
	}
}

func TestClaimsRefuse(t *testing.T) {
	const key = `{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"%"}`
	n := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 256))
	good := `{"keys":[` + strings.Replace(key, "%", n, 1) + `],"vm-configuration":{"vmUniqueId":"X","later":1.50},"user-data":"00","new":{"b":1,"a":[2]}}`
	c, err := hcl.ParseClaims([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Marshal(); err != nil || string(text) != good {
		t.Errorf("members that are not known: %s, %v", text, err)
	}
	if _, err := c.RSAKey(hcl.KeyAK); err != nil {
		t.Error(err)
	}
	for _, r := range []struct{ name, old, new string }{
		{"not JSON", "{", "["},
		{"keys is an object", `"keys":[`, `"keys":{"a":[`},
		{"duplicate member", `"user-data":"00"`, `"user-data":"00","user-data":"01"`},
		{"duplicate member in another case", `"user-data":"00"`, `"user-data":"00","User-Data":"01"`},
		{"duplicate key member", `"kty":"RSA"`, `"kty":"RSA","kty":"EC"`},
		{"two keys of one name", `],"vm-`, `,` + strings.Replace(key, "%", n, 1) + `],"vm-`},
		{"no name", `"kid":"HCLAkPub",`, ``},
		{"user data of another type", `"user-data":"00"`, `"user-data":0`},
		{"user data null", `"user-data":"00"`, `"user-data":null`},
		{"bytes after", `"a":[2]}}`, `"a":[2]}} {}`},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := hcl.ParseClaims([]byte(strings.Replace(good, r.old, r.new, 1))); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("%v", err)
			}
		})
	}
	for _, r := range []struct {
		name, old, new string
		want           evidence.Code
	}{
		{"another kind of key", `"kty":"RSA"`, `"kty":"EC"`, evidence.CodeUnsupported},
		{"short modulus", n, n[:100], evidence.CodeParse},
		{"padded base64", n, n + "==", evidence.CodeParse},
		{"exponent 1", "AQAB", "AQ", evidence.CodeParse},
		{"exponent absent", "AQAB", "", evidence.CodeParse},
		{"another name", "HCLAkPub", "HCLEkPub", evidence.CodeBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			c, err := hcl.ParseClaims([]byte(strings.Replace(good, r.old, r.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.RSAKey(hcl.KeyAK); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(made(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := hcl.Parse(raw)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || !bytes.HasPrefix(raw, again) {
			t.Fatalf("does not come back: %v", err)
		}
	})
}

func FuzzParseClaims(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kid":"a","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"AA"}],"vm-configuration":{"tpm-enabled":true},"user-data":"00"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := hcl.ParseClaims(raw)
		if err != nil {
			return
		}
		text, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hcl.ParseClaims(text); err != nil {
			t.Fatalf("own claims are refused: %v", err)
		}
	})
}
