// Command bench measures a Cloister installation from the outside, each figure beside a reference that is measured in
// the same run. It prints a table and writes JSON.
package main

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/store/embedded"
)

// row is one figure.
type row struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"`
	Unit      string  `json:"unit"`
	Ratio     float64 `json:"ratio"`  // ours by reference
	Target    string  `json:"target"` // what ours should be
	Beside    string  `json:"beside"` // what the reference is
}

func main() {
	out := flag.String("o", "bench.json", "file for the figures")
	bin := flag.String("bin", "bin", "folder of the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, out string) (err error) {
	dir, err := os.MkdirTemp("", "cloister-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program, err := filepath.Abs(filepath.Join(bin, "cloister"))
	if err != nil {
		return err
	}
	c := cli{program, filepath.Join(dir, "state")}
	defer func() {
		// Also after Ctrl-C: nothing that was started stays.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		_, downErr := c.run(ctx, "down")
		err = errors.Join(err, downErr)
	}()
	var rows []row
	for _, measure := range []func(context.Context, cli, string) ([]row, error){digests, services, vms} {
		more, err := measure(ctx, c, dir)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	for i := range rows {
		if rows[i].Reference > 0 {
			rows[i].Ratio = rows[i].Ours / rows[i].Reference
		}
	}
	raw, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tOURS\tREFERENCE\tRATIO\tTARGET\tREFERENCE IS")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.2f %s\t%.2f %s\t%.2f\t%s\t%s\n", r.Name, r.Ours, r.Unit, r.Reference, r.Unit, r.Ratio, r.Target, r.Beside)
	}
	return w.Flush()
}

type cli struct{ program, state string }

func (c cli) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.program, append([]string{"--state", c.state}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("cloister %v: %w\n%s", args, err, out)
	}
	return out, nil
}

// digests compares computing a launch digest with hashing the same bytes once.
func digests(context.Context, cli, string) ([]row, error) {
	const firmware = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	raw, err := os.ReadFile(firmware)
	if err != nil {
		return nil, err
	}
	const times = 20
	begun := time.Now()
	for range times {
		if _, err := launch.SNPDigest(launch.SNPInput{Firmware: raw, VCPUs: 1, CPUModel: "EPYC", Metadata: launch.MetadataNone}); err != nil {
			return nil, err
		}
	}
	ours := time.Since(begun)
	begun = time.Now()
	for range times {
		sha512.Sum384(raw)
	}
	return []row{{Name: "launch digest of the firmware", Ours: ms(ours) / times, Reference: ms(time.Since(begun)) / times, Unit: "ms", Target: "-", Beside: "SHA-384 of the same bytes"}}, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// services compares the whole platform's start and memory with etcd's alone.
func services(ctx context.Context, c cli, dir string) ([]row, error) {
	begun := time.Now()
	e, err := embedded.Start(ctx, embedded.Options{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		return nil, err
	}
	etcd := time.Since(begun)
	e.Stop()
	begun = time.Now()
	if _, err := c.run(ctx, "up"); err != nil {
		return nil, err
	}
	first := time.Since(begun)
	if _, err := c.run(ctx, "down"); err != nil {
		return nil, err
	}
	begun = time.Now()
	if _, err := c.run(ctx, "up"); err != nil {
		return nil, err
	}
	again := time.Since(begun)
	out, err := c.run(ctx, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	var st struct {
		Services []struct {
			Name      string
			MemoryMiB float64
		}
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return nil, err
	}
	all, compute := 0.0, 0.0
	for _, s := range st.Services {
		all += s.MemoryMiB
		if s.Name == "compute" {
			compute = s.MemoryMiB
		}
	}
	return []row{
		{Name: "first up, all services answer", Ours: first.Seconds(), Reference: etcd.Seconds(), Unit: "s", Target: "< 5 s", Beside: "an embedded etcd alone"},
		{Name: "later up, all services answer", Ours: again.Seconds(), Reference: etcd.Seconds(), Unit: "s", Target: "< 5 s", Beside: "an embedded etcd alone"},
		{Name: "memory of all services, no VMs", Ours: all, Reference: compute, Unit: "MiB", Target: "< 400 MiB", Beside: "the control plane with its etcd"},
	}, nil
}

type event struct {
	Time  time.Time
	Step  string
	State string
}

// vms times a VM's first and second boot, by the steps that the platform tells of.
func vms(ctx context.Context, c cli, dir string) ([]row, error) {
	if _, err := c.run(ctx, "image", "build"); err != nil {
		return nil, err
	}
	copied, err := copySparse(ctx, filepath.Join(c.state, "images", "debian-12", "disk.img"), filepath.Join(dir, "copy.img"))
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	if _, err := c.run(ctx, "vm", "create", "bench"); err != nil {
		return nil, err
	}
	first, err := steps(ctx, c, asked)
	if err != nil {
		return nil, err
	}
	asked = time.Now()
	if _, err := c.run(ctx, "vm", "restart", "bench", "--no-wait"); err != nil {
		return nil, err
	}
	var second map[string]time.Time
	for second["guest-attestation done"].IsZero() {
		if second, err = steps(ctx, c, asked); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	between := func(m map[string]time.Time, from, to string) float64 { return m[to].Sub(m[from]).Seconds() }
	return []row{
		{Name: "request taken to QEMU started", Ours: between(first, "rules done", "uefi started"), Reference: copied.Seconds(), Unit: "s", Target: "< 2 s", Beside: "copying the image's disk, sparse"},
		{Name: "first boot to attested", Ours: between(first, "uefi started", "guest-attestation done"), Reference: between(first, "uefi started", "uefi done"), Unit: "s", Target: "-", Beside: "its UEFI part"},
		{Name: "second boot to attested", Ours: between(second, "uefi started", "guest-attestation done"), Reference: between(second, "uefi started", "uefi done"), Unit: "s", Target: "< 60 s", Beside: "its UEFI part"},
		{Name: "evidence, token and key of a start", Ours: between(second, "evidence started", "vtpm done"), Reference: between(second, "uefi started", "guest-attestation done"), Unit: "s", Target: "-", Beside: "the boot that follows"},
	}, nil
}

// steps finds when each step last began and ended since a time.
func steps(ctx context.Context, c cli, since time.Time) (map[string]time.Time, error) {
	out, err := c.run(ctx, "vm", "logs", "bench", "-o", "json")
	if err != nil {
		return nil, err
	}
	var events []event
	if err := json.Unmarshal(out, &events); err != nil {
		return nil, err
	}
	m := map[string]time.Time{}
	for _, e := range events {
		if e.Time.After(since) {
			m[e.Step+" "+e.State] = e.Time
		}
	}
	return m, nil
}

// copySparse times cp, the tool that people would use.
func copySparse(ctx context.Context, from, to string) (time.Duration, error) {
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to)
	cmd.Stderr = io.Discard
	if out, err := cmd.Output(); err != nil {
		return 0, fmt.Errorf("cp: %w\n%s", err, out)
	}
	return time.Since(begun), nil
}
