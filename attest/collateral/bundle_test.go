package collateral_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/collateral/collateraltest"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

// TestCarry: what one machine fetched serves another that has no network, VLEKs included.
func TestCarry(t *testing.T) {
	b := newBench(t)
	chip, vlek := b.milan.Chip(t, tcb, nil), b.milan.VLEK(t, tcb, nil)
	b.kds.Add(chip, vlek)
	b.pcs.Serve("tdx", fmspc, "platform", b.intel.Files(t, b.version(17)))
	report, leased := chip.Sign(t, chip.Report()), vlek.Sign(t, vlek.Report())
	c := b.open(nil)
	if _, _, err := c.SNP(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.SNP(t.Context(), leased)
	code(t, "a VLEK, which AMD gives to its provider alone", err, evidence.CodeUnavailable)
	if err := c.Prefetch(t.Context(), platform(t)...); err != nil {
		t.Fatal(err)
	}
	if rows, err := c.Import(t.Context(), collateral.File{Name: "vlek.der", Raw: vlek.Chain.Leaf.Raw}); err != nil || len(rows) != 1 || rows[0].State != collateral.StateGood {
		t.Fatal(rows, err)
	}
	if _, lists, err := c.SNP(t.Context(), leased); err != nil || len(lists) != 1 {
		t.Fatal("an imported VLEK:", err)
	}
	raw, rows, err := c.Export(t.Context())
	if err != nil || len(rows) != 10 {
		t.Fatalf("%d rows, %v; want the VCEK, the VLEK, their authorities and lists, and Intel's four", len(rows), err)
	}
	again, _, err := c.Export(t.Context())
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("%v: exported twice, two bundles", err)
	}
	b.dir = t.TempDir()
	elsewhere := b.open(offline)
	if _, err := elsewhere.Import(t.Context(), collateral.File{Name: "bundle", Raw: raw}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*sevsnp.Report{report, leased} {
		if _, _, err := elsewhere.SNP(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	if err := elsewhere.Prefetch(t.Context(), platform(t)...); err != nil {
		t.Error(err)
	}
}

func TestImportRefused(t *testing.T) {
	for _, r := range []struct {
		name  string
		files func(b *bench) [][]byte
		want  evidence.Code
	}{
		{"SNP-14 authorities of another root", func(b *bench) [][]byte {
			v := sevsnptest.New(b.t, sevsnp.Milan)
			return [][]byte{v.ARK.Raw, v.ASK.Raw}
		}, evidence.CodeChain},
		{"SNP-20 a list of another root", func(b *bench) [][]byte {
			v := sevsnptest.New(b.t, sevsnp.Milan)
			return [][]byte{b.milan.ARK.Raw, b.milan.ASK.Raw, v.CRL(b.t, nil, sevsnptest.Now.AddDate(0, 0, -1), sevsnptest.Now.AddDate(0, 0, 1)).Raw}
		}, evidence.CodeChain},
		{"a VCEK alone", func(b *bench) [][]byte { return [][]byte{b.milan.Chip(b.t, tcb, nil).Chain.Leaf.Raw} }, evidence.CodeUnavailable},
		{"TDX-17 documents of another root", func(b *bench) [][]byte {
			return flat(collateraltest.NewIntel(b.t, sevsnptest.Now).Files(b.t, b.version(17)))
		}, evidence.CodeChain},
		{"TDX-16 older than what was seen", func(b *bench) [][]byte { return flat(b.intel.Files(b.t, b.version(15))) }, evidence.CodeTCB},
		{"nothing of use", func(b *bench) [][]byte { return [][]byte{b.milan.ARK.Raw} }, evidence.CodeParse},
		{"text", func(*bench) [][]byte { return [][]byte{[]byte("hello")} }, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := newBench(t)
			c := b.open(offline)
			imp := func(raws [][]byte) error {
				var files []collateral.File
				for _, raw := range raws {
					files = append(files, collateral.File{Name: "file", Raw: raw})
				}
				_, err := c.Import(t.Context(), files...)
				return err
			}
			if err := imp(flat(b.intel.Files(t, b.version(16)))); err != nil {
				t.Fatal("positive twin:", err)
			}
			before, err := filepath.Glob(filepath.Join(b.dir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			code(t, r.name, imp(r.files(b)), r.want)
			after, err := filepath.Glob(filepath.Join(b.dir, "*"))
			if err != nil || len(after) != len(before) {
				t.Errorf("%v: a refused import left %d files, there were %d", err, len(after), len(before))
			}
			if err := imp([][]byte{b.milan.ARK.Raw, b.milan.ASK.Raw}); err != nil {
				t.Error("positive twin:", err)
			}
		})
	}
}

func flat(f dcap.Files) [][]byte {
	return [][]byte{f.TCBInfo, f.TCBInfoIssuerChain, f.QEIdentity, f.QEIdentityIssuerChain, f.PCKCRL, f.PCKCRLIssuerChain, f.RootCRL}
}

// TestSpoiltFolder: what someone changed in the folder is not used; it is fetched again, and the folder mended.
func TestSpoiltFolder(t *testing.T) {
	b := newBench(t)
	chip := b.milan.Chip(t, tcb, nil)
	b.kds.Add(chip)
	report := chip.Sign(t, chip.Report())
	if _, _, err := b.open(nil).SNP(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "[a-z]*"))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(raw)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(f, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.open(offline).SNP(t.Context(), report); err == nil {
			t.Errorf("%s with a changed byte was used", filepath.Base(f))
		}
		if _, _, err := b.open(nil).SNP(t.Context(), report); err != nil {
			t.Error("positive twin:", err)
		}
		if mended, err := os.ReadFile(f); err != nil || !bytes.Equal(mended, raw) {
			t.Errorf("%s was not mended: %v", filepath.Base(f), err)
		}
	}
}
