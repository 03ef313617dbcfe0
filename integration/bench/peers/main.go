// Command peers measures other projects' libraries on evidence in files, so that they can stand beside ours in one run.
// It is a module of its own: what it needs is no part of Cloister.
package main

import (
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
)

func main() {
	report := flag.String("report", "", "SNP report, 1184 bytes")
	chain := flag.String("chain", "", "PEM: VCEK, ASK, ARK")
	product := flag.String("product", "Milan", "product line")
	at := flag.String("at", "", "time to judge at, RFC 3339")
	flag.Parse()
	if err := run(*report, *chain, *product, *at); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// run prints nanoseconds for each operation of each peer as JSON.
func run(reportFile, chainFile, product, at string) error {
	now, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(reportFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(chainFile)
	if err != nil {
		return err
	}
	var certs [3][]byte
	for i := range certs {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return fmt.Errorf("%s: want three certificates", chainFile)
		}
		certs[i] = block.Bytes
	}
	root := trust.AMDRootCertsProduct(product)
	if err := root.Decode(certs[1], certs[2]); err != nil {
		return err
	}
	once := func() error {
		parsed, err := abi.ReportToProto(raw)
		if err != nil {
			return err
		}
		evidence := &pb.Attestation{Report: parsed, CertificateChain: &pb.CertificateChain{VcekCert: certs[0], AskCert: certs[1], ArkCert: certs[2]}}
		return verify.SnpAttestation(evidence, &verify.Options{DisableCertFetching: true, Now: now, TrustedRoots: map[string][]*trust.AMDRootCerts{product: {root}}})
	}
	if err := once(); err != nil {
		return fmt.Errorf("go-sev-guest refuses the evidence: %w", err)
	}
	figure := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if err := once(); err != nil {
				b.Fatal(err)
			}
		}
	})
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{"go-sev-guest": figure.NsPerOp()})
}
