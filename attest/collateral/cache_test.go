package collateral_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/collateral/collateraltest"
	"cloister.dev/cloister/evidence"
	endorsed "cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

var tcb = sevsnp.TCB{BootLoader: 3, TEE: 0, SNP: 0x18, Microcode: 0xdb}

// clock is a clock that waiting moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func (c *clock) wait(ctx context.Context, d time.Duration) error {
	c.pass(d)
	return ctx.Err()
}

// bench is an AMD, an Intel and a clock.
type bench struct {
	t     *testing.T
	clock *clock
	milan *sevsnptest.Vendor
	kds   *collateraltest.KDS
	intel *collateraltest.Intel
	pcs   *collateraltest.PCS
	dir   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{at: sevsnptest.Now}, milan: sevsnptest.New(t, sevsnp.Milan), intel: collateraltest.NewIntel(t, sevsnptest.Now), pcs: collateraltest.NewPCS(t), dir: t.TempDir()}
	b.kds = collateraltest.NewKDS(t, b.milan)
	return b
}

// open makes a cache that trusts this AMD and this Intel.
func (b *bench) open(change func(*collateral.Options)) *collateral.Cache {
	b.t.Helper()
	o := collateral.Options{Dir: b.dir, AMD: b.kds.URL, Intel: b.pcs.URL, IntelCertificates: b.pcs.URL, Now: b.clock.now, Wait: b.clock.wait, Jitter: func() float64 { return 0.5 }}
	o.Roots.Authorities, o.Roots.Chain = sevsnptest.Checks(b.t, b.milan)
	o.Roots.Intel = b.intel.Check
	if change != nil {
		change(&o)
	}
	c, err := collateral.Open(o)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func offline(o *collateral.Options) { o.AMD, o.Intel, o.IntelCertificates = "", "", "" }

const fmspc = "00806f050000"

func (b *bench) version(evaluation int) collateraltest.Version {
	now := b.clock.now()
	return collateraltest.Version{FMSPC: "00806F050000", Evaluation: evaluation, CRLNumber: int64(evaluation), From: now.AddDate(0, 0, -1), Next: now.AddDate(0, 0, 29)}
}

// platform names what DCAP asks for.
func platform(t *testing.T) []collateral.ID {
	t.Helper()
	ids, err := collateral.ForPlatform("tdx", [6]byte{0x00, 0x80, 0x6f, 0x05}, "platform")
	if err != nil {
		t.Fatal(err)
	}
	return ids[:]
}

func code(t *testing.T, name string, err error, want evidence.Code) {
	t.Helper()
	if got := evidence.CodeOf(err); got != want {
		t.Errorf("%s: %v, want %q", name, err, want)
	}
}

// TestSNP: a chip's certificates and list are fetched once, kept as plain files, and served from them with no network.
func TestSNP(t *testing.T) {
	for _, p := range []sevsnp.Product{sevsnp.Milan, sevsnp.Genoa, sevsnp.Turin} {
		t.Run(string(p), func(t *testing.T) {
			b := newBench(t)
			b.milan = sevsnptest.New(t, p)
			b.kds = collateraltest.NewKDS(t, b.milan)
			level := tcb
			if p == sevsnp.Turin {
				level.FMC = 2
			}
			chip, stranger := b.milan.Chip(t, level, nil), b.milan.Chip(t, level, nil)
			b.kds.Add(chip)
			report := chip.Sign(t, chip.Report())
			check := func(name string, c *collateral.Cache) {
				chain, lists, err := c.SNP(t.Context(), report)
				if err != nil {
					t.Fatal(name, err)
				}
				a, err := sevsnptest.Authenticate(t, report, chain, sevsnp.Options{At: b.clock.now(), CRLs: lists, RequireCRL: true}, b.milan)
				if err != nil || !a.RevocationChecked() {
					t.Fatal(name, err)
				}
			}
			c := b.open(nil)
			check("first", c)
			asked := len(b.kds.Asked())
			check("again", c)
			check("another process", b.open(nil))
			check("offline", b.open(offline))
			if n := len(b.kds.Asked()); asked != 3 || n != asked {
				t.Errorf("%d requests at first, %d in the end; want 3: %v", asked, n, b.kds.Asked())
			}
			// The folder is what attest verify --collateral reads.
			var set endorsed.Set
			files, err := filepath.Glob(filepath.Join(b.dir, "[a-z]*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				raw, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := set.Add(f, raw); err != nil {
					t.Error(err)
				}
			}
			if _, err := set.SNPChain(report); err != nil || len(set.SNPCRLs()) != 1 {
				t.Errorf("from the folder's files: %v, %d lists", err, len(set.SNPCRLs()))
			}
			_, _, err = c.SNP(t.Context(), stranger.Sign(t, stranger.Report()))
			code(t, "a chip that AMD does not know", err, evidence.CodeUnavailable)
			n := len(b.kds.Asked())
			_, _, err = c.SNP(t.Context(), stranger.Report())
			code(t, "the same again", err, evidence.CodeUnavailable)
			if len(b.kds.Asked()) != n {
				t.Error("what AMD does not know was asked for again at once")
			}
			masked := chip.Report()
			masked.ChipID = [64]byte{}
			_, _, err = c.SNP(t.Context(), masked)
			code(t, "a masked chip id", err, evidence.CodeUnavailable)
			_, _, err = c.SNP(t.Context(), nil)
			code(t, "no report", err, evidence.CodeParse)
		})
	}
}

func TestSNPRefused(t *testing.T) {
	day := 24 * time.Hour
	for _, r := range []struct {
		name   string
		change func(b *bench)
		want   evidence.Code
	}{
		{"SNP-14 a service with a root of its own", func(b *bench) {
			other := sevsnptest.New(b.t, sevsnp.Milan)
			b.kds = collateraltest.NewKDS(b.t, other)
		}, evidence.CodeChain},
		{"SNP-20 a list by the ASK", func(b *bench) {
			b.kds.SetCRL(sevsnp.Milan, b.milan.CRL(b.t, b.milan.ASKKey, sevsnptest.Now.Add(-day), sevsnptest.Now.Add(day)))
		}, evidence.CodeChain},
		{"SNP-19 a stale list", func(b *bench) {
			b.kds.SetCRL(sevsnp.Milan, b.milan.CRL(b.t, nil, sevsnptest.Now.Add(-2*day), sevsnptest.Now.Add(-day)))
		}, evidence.CodeUnavailable},
		{"SNP-19 a list from the future", func(b *bench) {
			b.kds.SetCRL(sevsnp.Milan, b.milan.CRL(b.t, nil, sevsnptest.Now.Add(day), sevsnptest.Now.Add(2*day)))
		}, evidence.CodeUnavailable},
		{"SVC-28 a service that is down", func(b *bench) { b.kds.Set(collateraltest.Knobs{Status: 500}) }, evidence.CodeUnavailable},
		{"SVC-11 64 MiB", func(b *bench) { b.kds.Set(collateraltest.Knobs{Huge: 64 << 20}) }, evidence.CodeUnavailable},
		{"SVC-09 a redirect to a link-local address", func(b *bench) {
			b.kds.Set(collateraltest.Knobs{Status: 302, Location: "http://169.254.169.254/metadata/instance"})
		}, evidence.CodeUnavailable},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := newBench(t)
			chip := b.milan.Chip(t, tcb, nil)
			b.kds.Add(chip)
			report := chip.Sign(t, chip.Report())
			r.change(b)
			_, _, err := b.open(nil).SNP(t.Context(), report)
			code(t, r.name, err, r.want)
			twin := newBench(t)
			twin.kds.Add(chip)
			twin.milan, twin.kds = b.milan, collateraltest.NewKDS(t, b.milan)
			twin.kds.Add(chip)
			if _, _, err := twin.open(nil).SNP(t.Context(), report); err != nil {
				t.Error("positive twin:", err)
			}
		})
	}
}

// TestNoAddressFromEvidence: SVC-09, SVC-11. A certificate that is full of addresses makes no request but the three to the
// configured service.
func TestNoAddressFromEvidence(t *testing.T) {
	b := newBench(t)
	trap := collateraltest.NewKDS(t, b.milan)
	var names []any
	for n := range 200 {
		names = append(names, distributionPoint{Name: pointName{Full: []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(fmt.Sprintf("%s/vcek/v1/Milan/crl?%d", trap.URL, n))}}}})
	}
	points, err := asn1.Marshal(toPoints(names))
	if err != nil {
		t.Fatal(err)
	}
	aia, err := asn1.Marshal([]access{{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 2}, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(trap.URL)}}})
	if err != nil {
		t.Fatal(err)
	}
	chip := b.milan.Chip(t, tcb, func(l *sevsnptest.Leaf) {
		l.Extensions = append(l.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: points}, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}, Value: aia})
	})
	if n := len(chip.Chain.Leaf.CRLDistributionPoints); n != 200 {
		t.Fatalf("the certificate names %d lists", n)
	}
	b.kds.Add(chip)
	if _, _, err := b.open(nil).SNP(t.Context(), chip.Sign(t, chip.Report())); err != nil {
		t.Fatal(err)
	}
	if len(trap.Asked()) != 0 || len(b.kds.Asked()) != 3 {
		t.Errorf("SVC-09, SVC-11: %d requests to an address of the certificate, %d to the service; want none and 3", len(trap.Asked()), len(b.kds.Asked()))
	}
}

type pointName struct {
	Full []asn1.RawValue `asn1:"optional,tag:0"`
}
type distributionPoint struct {
	Name pointName `asn1:"optional,tag:0"`
}
type access struct {
	Method   asn1.ObjectIdentifier
	Location asn1.RawValue
}

func toPoints(in []any) (out []distributionPoint) {
	for _, p := range in {
		out = append(out, p.(distributionPoint))
	}
	return out
}

// TestSilent: SVC-11. A service that never answers is given up, by the caller's time or by our own.
func TestSilent(t *testing.T) {
	b := newBench(t)
	chip := b.milan.Chip(t, tcb, nil)
	b.kds.Set(collateraltest.Knobs{Silent: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := b.open(nil).SNP(ctx, chip.Report())
	code(t, "SVC-11 the caller leaves", err, evidence.CodeUnavailable)
	_, _, err = b.open(func(o *collateral.Options) { o.Timeout = time.Millisecond }).SNP(t.Context(), chip.Report())
	code(t, "SVC-11 a silent service", err, evidence.CodeUnavailable)
}

// TestPace: AMD's service takes a request per 10 s; who has no patience for a turn is told so at once.
func TestPace(t *testing.T) {
	b := newBench(t)
	chip := b.milan.Chip(t, tcb, nil)
	b.kds.Add(chip)
	report := chip.Sign(t, chip.Report())
	if _, _, err := b.open(nil).SNP(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	if d := b.clock.now().Sub(sevsnptest.Now); d != 2*collateral.AMDInterval {
		t.Errorf("three requests took %s, want %s", d, 2*collateral.AMDInterval)
	}
	b.dir = t.TempDir()
	_, _, err := b.open(func(o *collateral.Options) { o.Patience = time.Second }).SNP(t.Context(), report)
	code(t, "no patience", err, evidence.CodeUnavailable)

	b.dir = t.TempDir()
	b.kds.Set(collateraltest.Knobs{Status: http.StatusTooManyRequests, RetryAfter: "20"})
	n, before := len(b.kds.Asked()), b.clock.now()
	_, _, err = b.open(nil).SNP(t.Context(), report)
	code(t, "429 for ever", err, evidence.CodeUnavailable)
	if asked, d := len(b.kds.Asked())-n, b.clock.now().Sub(before); asked != 3 || d != 40*time.Second {
		t.Errorf("429 with Retry-After 20: %d requests in %s, want 3 in 40s", asked, d)
	}
	c := b.open(nil)
	b.kds.Set(collateraltest.Knobs{Status: http.StatusTooManyRequests, RetryAfter: "600"})
	n = len(b.kds.Asked())
	for range 3 {
		_, _, err = c.SNP(t.Context(), report)
		code(t, "429 beyond patience", err, evidence.CodeUnavailable)
	}
	if asked := len(b.kds.Asked()) - n; asked != 1 {
		t.Errorf("429 with Retry-After 600: %d requests, want 1", asked)
	}
	b.kds.Set(collateraltest.Knobs{})
	b.clock.pass(time.Hour)
	if _, _, err := c.SNP(t.Context(), report); err != nil {
		t.Error("positive twin, an hour later:", err)
	}
}

// TestOneFlight: however many ask, the service is asked once.
func TestOneFlight(t *testing.T) {
	b := newBench(t)
	chip := b.milan.Chip(t, tcb, nil)
	b.kds.Add(chip)
	c, report := b.open(nil), chip.Sign(t, chip.Report())
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, _, err := c.SNP(t.Context(), report); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n := len(b.kds.Asked()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// TestStaleCRL: SVC-29. A list in memory or in the folder counts until its date and not a second longer.
func TestStaleCRL(t *testing.T) {
	b := newBench(t)
	chip := b.milan.Chip(t, tcb, nil)
	b.kds.Add(chip)
	c, report := b.open(nil), chip.Sign(t, chip.Report())
	_, lists, err := c.SNP(t.Context(), report)
	if err != nil {
		t.Fatal(err)
	}
	b.kds.Set(collateraltest.Knobs{Status: 500})
	b.clock.pass(lists[0].NextUpdate.Sub(b.clock.now()) - time.Second)
	if _, _, err := c.SNP(t.Context(), report); err != nil {
		t.Fatal("positive twin, a second before:", err)
	}
	b.clock.pass(time.Second)
	_, _, err = c.SNP(t.Context(), report)
	code(t, "SVC-29 in memory", err, evidence.CodeUnavailable)
	_, _, err = b.open(offline).SNP(t.Context(), report)
	code(t, "SVC-29 in the folder", err, evidence.CodeUnavailable)
	if err == nil || !strings.Contains(err.Error(), "holds from") {
		t.Errorf("%v does not say that there is one, and until when it held", err)
	}
	b.kds.Set(collateraltest.Knobs{})
	b.clock.pass(time.Hour)
	b.kds.SetCRL(sevsnp.Milan, b.milan.CRLWith(t, nil, b.clock.now(), b.clock.now().AddDate(0, 1, 0), nil))
	if _, _, err := c.SNP(t.Context(), report); err != nil {
		t.Error("a new list:", err)
	}
}

// TestIntel: the four endorsements of a family of platforms.
func TestIntel(t *testing.T) {
	b := newBench(t)
	b.pcs.Serve("tdx", fmspc, "platform", b.intel.Files(t, b.version(17)))
	c := b.open(nil)
	if err := c.Prefetch(t.Context(), platform(t)...); err != nil {
		t.Fatal(err)
	}
	n := len(b.pcs.Asked())
	if err := errors.Join(c.Prefetch(t.Context(), platform(t)...), b.open(offline).Prefetch(t.Context(), platform(t)...)); err != nil || n != 4 || len(b.pcs.Asked()) != 4 {
		t.Errorf("%v; %d requests, want 4", err, len(b.pcs.Asked()))
	}
	b.clock.pass(25 * time.Hour)
	b.pcs.Serve("tdx", fmspc, "platform", b.intel.Files(t, b.version(18)))
	if err := c.Refresh(t.Context()); err != nil || len(b.pcs.Asked()) != 8 {
		t.Errorf("a day later: %v, %d requests, want 8", err, len(b.pcs.Asked()))
	}
}

func TestIntelRefused(t *testing.T) {
	day := 24 * time.Hour
	for _, r := range []struct {
		name  string
		serve func(b *bench) dcap.Files
		want  evidence.Code
	}{
		{"TDX-17 consistent under another root", func(b *bench) dcap.Files {
			return collateraltest.NewIntel(b.t, sevsnptest.Now).Files(b.t, b.version(17))
		}, evidence.CodeChain},
		{"TDX-15 expired", func(b *bench) dcap.Files {
			v := b.version(17)
			v.Next = sevsnptest.Now.Add(-time.Second)
			return b.intel.Files(b.t, v)
		}, evidence.CodeUnavailable},
		{"TDX-15 from the future", func(b *bench) dcap.Files {
			v := b.version(17)
			v.From, v.Next = sevsnptest.Now.Add(day), sevsnptest.Now.Add(2*day)
			return b.intel.Files(b.t, v)
		}, evidence.CodeUnavailable},
		{"TDX-18 a PCK list with the documents' signer as issuer", func(b *bench) dcap.Files {
			f := b.intel.Files(b.t, b.version(17))
			f.PCKCRLIssuerChain = f.TCBInfoIssuerChain
			return f
		}, evidence.CodeBinding},
		{"TDX-18 a PCK list that the root signed", func(b *bench) dcap.Files {
			f := b.intel.Files(b.t, b.version(17))
			f.PCKCRL = f.RootCRL
			return f
		}, evidence.CodeChain},
		{"TDX-19 of another family", func(b *bench) dcap.Files {
			v := b.version(17)
			v.FMSPC = "90C06F000000"
			return b.intel.Files(b.t, v)
		}, evidence.CodeBinding},
		{"a document that was changed", func(b *bench) dcap.Files {
			f := b.intel.Files(b.t, b.version(17))
			f.TCBInfo = bytes.Replace(f.TCBInfo, []byte(`"pceId":"0000"`), []byte(`"pceId":"0001"`), 1)
			return f
		}, evidence.CodeChain},
		{"no issuers", func(b *bench) dcap.Files {
			f := b.intel.Files(b.t, b.version(17))
			f.TCBInfoIssuerChain = nil
			return f
		}, evidence.CodeBinding},
		{"another document", func(b *bench) dcap.Files {
			f := b.intel.Files(b.t, b.version(17))
			f.TCBInfo = f.QEIdentity
			return f
		}, evidence.CodeBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := newBench(t)
			b.pcs.Serve("tdx", fmspc, "platform", r.serve(b))
			err := b.open(nil).Prefetch(t.Context(), platform(t)...)
			if !hasCode(err, r.want) {
				t.Errorf("%v, want %q", err, r.want)
			}
			b.dir = t.TempDir()
			b.pcs.Serve("tdx", fmspc, "platform", b.intel.Files(t, b.version(17)))
			if err := b.open(nil).Prefetch(t.Context(), platform(t)...); err != nil {
				t.Error("positive twin:", err)
			}
		})
	}
}

// hasCode looks through joined errors.
func hasCode(err error, want evidence.Code) bool {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			if hasCode(e, want) {
				return true
			}
		}
		return false
	}
	return evidence.CodeOf(err) == want
}

// TestRollback: TDX-16. What is older than what was seen is refused, also after a restart, and also from the folder.
func TestRollback(t *testing.T) {
	for _, r := range []struct {
		name string
		old  func(b *bench) collateraltest.Version
	}{
		{"TDX-16 a lower evaluation number", func(b *bench) collateraltest.Version {
			v := b.version(18)
			v.Evaluation = 17
			return v
		}},
		{"TDX-16 an older list", func(b *bench) collateraltest.Version {
			v := b.version(18)
			v.CRLNumber = 17
			return v
		}},
		{"TDX-16 issued earlier", func(b *bench) collateraltest.Version {
			v := b.version(18)
			v.From = v.From.Add(-time.Hour)
			return v
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := newBench(t)
			old := b.intel.Files(t, r.old(b))
			b.pcs.Serve("tdx", fmspc, "platform", old)
			if err := b.open(nil).Prefetch(t.Context(), platform(t)...); err != nil {
				t.Fatal("positive twin, before a newer one was seen:", err)
			}
			kept := b.dir
			b.dir = t.TempDir()
			b.pcs.Serve("tdx", fmspc, "platform", b.intel.Files(t, b.version(18)))
			c := b.open(nil)
			if err := c.Prefetch(t.Context(), platform(t)...); err != nil {
				t.Fatal(err)
			}
			b.pcs.Serve("tdx", fmspc, "platform", old)
			b.clock.pass(25 * time.Hour)
			if err := c.Refresh(t.Context()); !hasCode(err, evidence.CodeTCB) {
				t.Errorf("from the service: %v, want %q", err, evidence.CodeTCB)
			}
			if err := c.Prefetch(t.Context(), platform(t)...); err != nil {
				t.Errorf("the newer one is still good: %v", err)
			}
			// Someone puts the old files back.
			files, err := filepath.Glob(filepath.Join(kept, "[a-z]*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				raw, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(b.dir, filepath.Base(f)), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.open(offline).Prefetch(t.Context(), platform(t)...); !hasCode(err, evidence.CodeTCB) {
				t.Errorf("from the folder: %v, want %q", err, evidence.CodeTCB)
			}
		})
	}
}

// TestIDs: SVC-12. No stranger's text becomes a part of a path or of an address.
func TestIDs(t *testing.T) {
	long := strings.Repeat("0", 128)
	for _, text := range []string{"", "..", "vcek/Milan/../0000000000000000", "vcek/Milan/" + long + "/%2e%2e", "vcek/milan/" + long + "/0000000000000000", "vcek/Milan/" + long + "/0000000000000000/..",
		"vcek/Milan/" + long + "0/0000000000000000", "vcek/Milan/" + strings.ToUpper(strings.Replace(long, "0", "a", 1)) + "/0000000000000000", "vcek/Turin/" + long + "/0000000000000000", "crl/Milan/vcek\x00", "crl/Milan\\vcek",
		"/rootcrl", "rootcrl\n", "tcb/tdx/00806f05000٠", "tcb/tdx/00806F050000", "qe/tdx/1", "pckcrl/other", "crl/Rome/vcek", strings.Repeat("a", 1<<20)} {
		_, err := collateral.ParseID(text)
		code(t, fmt.Sprintf("SVC-12 %.40q", text), err, evidence.CodeParse)
	}
	for _, text := range []string{"vcek/Milan/" + long + "/0000000000000000", "vcek/Turin/0123456789abcdef/0000000000000000", "vlek/Genoa/00000000000000ff", "crl/Turin/vlek", "tcb/sgx/00806f050000", "qe/tdx", "pckcrl/processor", "rootcrl"} {
		id, err := collateral.ParseID(text)
		if err != nil || id.String() != text {
			t.Errorf("positive twin %s: %v", text, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, u := range []string{"ftp://x", "http://kds.example", "https://", "https://user@kds.example", "https://kds.example?x=1", "https://kds.example#x", "http://169.254.169.254", "kds.example"} {
		if err := (collateral.Config{AMD: &collateral.AMD{URL: u}}).Validate(); err == nil {
			t.Errorf("SVC-10 %q was taken", u)
		}
		if _, err := collateral.Open(collateral.Options{AMD: u}); err == nil {
			t.Errorf("SVC-10 %q was opened", u)
		}
	}
	for _, c := range []collateral.Config{{AMD: &collateral.AMD{}, Intel: &collateral.Intel{}}, {AMD: &collateral.AMD{URL: "http://127.0.0.1:1"}}, {Dir: "x", Offline: true}, {AMD: &collateral.AMD{URL: "https://mirror.example/amd"}}} {
		if err := c.Validate(); err != nil {
			t.Error("positive twin:", err)
		}
	}
	if err := (collateral.Config{}).Validate(); err == nil {
		t.Error("a configuration that can never give anything was taken")
	}
	o := collateral.Config{Dir: "x", AMD: &collateral.AMD{}, Intel: &collateral.Intel{}, Offline: true}.Options()
	if o.AMD != "" || o.Intel != "" || o.IntelCertificates != "" {
		t.Error("offline asks somebody")
	}
}
