package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
)

// turns is how often each side of a comparison is measured, one after the other; the best of each counts, since other
// work on the machine only ever makes a figure worse.
const turns = 3

// appraisals measures what judging evidence costs beside the signature arithmetic in it, and beside other libraries.
func appraisals(ctx context.Context, _ cli, dir string) ([]row, error) {
	snp, err := snpSetting(dir)
	if err != nil {
		return nil, err
	}
	td, err := tdSetting()
	if err != nil {
		return nil, err
	}
	p384, err := verification(elliptic.P384(), sha512.New384, sevsnp.SignedSize)
	if err != nil {
		return nil, err
	}
	p256, err := verification(elliptic.P256(), sha256.New, 632)
	if err != nil {
		return nil, err
	}
	ours, one, quote, two := best{}, best{}, best{}, best{}
	peer := best{}
	for range turns {
		for _, m := range []struct {
			to   *best
			call func(*testing.B)
		}{{&ours, snp.judge}, {&one, p384}, {&quote, td.judge}, {&two, p256}} {
			if err := m.to.measure(m.call); err != nil {
				return nil, err
			}
		}
		ns, err := snp.peer(ctx)
		if err != nil {
			return nil, err
		}
		peer.take(ns)
	}
	rows := []row{
		{Name: "SNP report judged, chain known", Ours: ours.µs(), Reference: peer.µs(), Unit: "µs", Target: "0.56 or less (1.8 times as fast)", Beside: "go-sev-guest 0.15.0's full verification"},
		{Name: "the same", Ours: ours.µs(), Reference: one.µs(), Unit: "µs", Target: "1.3 or less", Beside: "the P-384 verification in it"},
		{Name: "TD quote judged, chain and collateral known", Ours: quote.µs(), Reference: 2 * two.µs(), Unit: "µs", Target: "1.5 or less", Beside: "the two P-256 verifications in it"},
	}
	more, err := serviceFigures(ctx)
	return append(rows, more...), err
}

// best is the least time that was seen.
type best struct{ ns float64 }

func (b *best) take(ns float64) {
	if b.ns == 0 || ns < b.ns {
		b.ns = ns
	}
}

func (b *best) µs() float64 { return b.ns / 1000 }

func (b *best) measure(f func(*testing.B)) error {
	r := testing.Benchmark(f)
	if r.N == 0 {
		return errors.New("a benchmark failed: its output is above")
	}
	b.take(float64(r.NsPerOp()))
	return nil
}

// prepare runs once what wants a test around it: the stand-ins for vendors do, so that no product can use them.
func prepare(run func(testing.TB)) error {
	begun, done := false, false
	testing.Benchmark(func(b *testing.B) {
		if !begun {
			begun = true
			run(b)
			done = true
		}
	})
	if !done {
		return errors.New("no evidence could be made: the reason is above")
	}
	return nil
}

type snpCase struct {
	vendor *sevsnptest.Vendor
	chain  sevsnp.Chain
	raw    []byte
	expect sevsnp.Expect
	known  *sevsnp.Chains
	dir    string
}

// snpSetting makes a report and a chain with keys as long as AMD's.
func snpSetting(dir string) (*snpCase, error) {
	var s *snpCase
	err := prepare(func(b testing.TB) {
		tcb := sevsnp.TCB{BootLoader: 4, SNP: 24, Microcode: 219}
		v := sevsnptest.NewSized(b, sevsnp.Milan, 4096)
		chip := v.Chip(b, tcb, nil)
		report := chip.Report()
		report.HostData[0], report.Measurement[0], report.ReportData[0] = 1, 2, 3
		chip.Sign(b, report)
		e := sevsnp.Baseline()
		e.Root, e.Measurement = evidence.Exactly(evidence.RootAMD), evidence.Exactly(report.Measurement)
		e.HostData, e.ReportData = evidence.Exactly(report.HostData), evidence.Exactly(report.ReportData)
		s = &snpCase{vendor: v, chain: chip.Chain, raw: report.Marshal(), expect: e, known: sevsnp.NewChains(1), dir: dir}
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.bin"), s.raw, 0o600); err != nil {
		return nil, err
	}
	return s, os.WriteFile(filepath.Join(dir, "chain.pem"), s.chain.PEM(), 0o600)
}

// judge is bytes, authenticity and acceptability.
func (s *snpCase) judge(b *testing.B) {
	for b.Loop() {
		report, err := sevsnp.Parse(s.raw)
		if err != nil {
			b.Fatal(err)
		}
		a, err := sevsnptest.Authenticate(b, report, s.chain, sevsnp.Options{At: sevsnptest.Now, Chains: s.known}, s.vendor)
		if err != nil {
			b.Fatal(err)
		}
		if err := sevsnp.Appraise(a, s.expect).Err(evidence.CodePolicy); err != nil {
			b.Fatal(err)
		}
	}
}

// peer measures go-sev-guest on the same report, in nanoseconds.
func (s *snpCase) peer(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, "go", "run", "-C", "integration/bench/peers", ".", "-report", filepath.Join(s.dir, "report.bin"),
		"-chain", filepath.Join(s.dir, "chain.pem"), "-product", string(sevsnp.Milan), "-at", sevsnptest.Now.Format(time.RFC3339))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go-sev-guest: %w", err)
	}
	var figures map[string]float64
	if err := json.Unmarshal(out, &figures); err != nil {
		return 0, err
	}
	return figures["go-sev-guest"], nil
}

type tdCase struct {
	vendor     *dcaptest.Vendor
	raw        []byte
	collateral *dcap.Collateral
	options    dcap.Options
	expect     tdx.Expect
}

func tdSetting() (*tdCase, error) {
	var s *tdCase
	err := prepare(func(b testing.TB) {
		v := dcaptest.New(b, dcaptest.Options{})
		q := tdxtest.Good()
		e := tdx.Baseline()
		e.Root, e.MRTD = evidence.Exactly(evidence.RootIntel), evidence.Exactly(q.Body.MRTD)
		e.ReportData, e.MRConfigID = evidence.Exactly(q.Body.ReportData), evidence.Any[[48]byte]() // zeros are not expected by mistake
		for i := range e.RTMR {
			e.RTMR[i] = evidence.Exactly(q.Body.RTMR[i])
		}
		s = &tdCase{vendor: v, raw: tdxtest.Quote(b, v, q), collateral: v.Collateral(b, dcap.TDX, dcaptest.Now), expect: e,
			options: dcap.Options{At: dcaptest.Now, Chains: dcap.NewChainCache(1)}}
	})
	return s, err
}

func (s *tdCase) judge(b *testing.B) {
	for b.Loop() {
		quote, err := tdx.ParseQuote(s.raw)
		if err != nil {
			b.Fatal(err)
		}
		a, err := tdxtest.Authenticate(b, s.vendor, quote, s.options)
		if err != nil {
			b.Fatal(err)
		}
		if a, err = a.WithCollateral(s.collateral, s.options); err != nil {
			b.Fatal(err)
		}
		if err := tdx.Appraise(a, s.expect).Err(evidence.CodePolicy); err != nil {
			b.Fatal(err)
		}
	}
}

// verification is one signature's verification, with the hash of so many bytes.
func verification(curve elliptic.Curve, h func() hash.Hash, size int) (func(*testing.B), error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	text := make([]byte, size)
	sum := func() []byte { d := h(); d.Write(text); return d.Sum(nil) }
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum())
	if err != nil {
		return nil, err
	}
	return func(b *testing.B) {
		for b.Loop() {
			if !ecdsa.VerifyASN1(&key.PublicKey, sum(), sig) {
				b.Fatal("a signature of ours does not verify")
			}
		}
	}, nil
}

// serviceFigures are what the verifier's own benchmarks say: policies by one core, tokens over TLS by all.
func serviceFigures(ctx context.Context) ([]row, error) {
	policy, err := benchmarks(ctx, "./attest/policy", "^BenchmarkEvaluate$", "-count", strconv.Itoa(turns))
	if err != nil {
		return nil, err
	}
	service, err := benchmarks(ctx, "./attest", "^Benchmark(HTTP|VerifyAndSign)$", "-count", strconv.Itoa(turns))
	if err != nil {
		return nil, err
	}
	long, err := benchmarks(ctx, "./attest", "^BenchmarkHTTP$", "-benchtime", "20000x", "-count", "1")
	if err != nil {
		return nil, err
	}
	perSecond := 0.0
	if ns := policy["Evaluate"]["ns/op"]; ns > 0 {
		perSecond = 1e9 / ns
	}
	return []row{
		{Name: "policy evaluations", Ours: perSecond, Reference: 10_000, Unit: "1/s", Target: "1 or more", Beside: "10,000 a second on one core"},
		{Name: "tokens of SNP reports over TLS, all cores", Ours: service["HTTP"]["requests/s"], Reference: service["VerifyAndSign"]["requests/s"], Unit: "1/s",
			Target: "0.7 or more", Beside: "verification and RS256 signing alone"},
		{Name: "slowest of a hundred under that load", Ours: service["HTTP"]["p99-ms"], Reference: service["HTTP"]["p50-ms"], Unit: "ms", Target: "-", Beside: "the median"},
		{Name: "memory after 22,000 tokens", Ours: long["HTTP"]["heap-MB-end"], Reference: long["HTTP"]["heap-MB-begin"], Unit: "MB", Target: "1.1 or less", Beside: "memory after 2,000 of them"},
	}, nil
}

// benchmarks runs a package's benchmarks and reads their figures, by name and unit. Of several runs the quickest counts.
func benchmarks(ctx context.Context, pkg, pattern string, flags ...string) (map[string]map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"test", "-run", "^$", "-bench", pattern}, flags...), pkg)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, out)
	}
	figures := map[string]map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(fields[0], "Benchmark"), "-")
		run := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			if run[fields[i+1]], err = strconv.ParseFloat(fields[i], 64); err != nil {
				return nil, fmt.Errorf("benchmark output %q: %w", lines.Text(), err)
			}
		}
		if before, ok := figures[name]; !ok || run["ns/op"] < before["ns/op"] {
			figures[name] = run
		}
	}
	return figures, nil
}
