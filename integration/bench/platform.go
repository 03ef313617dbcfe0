package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"cloister.dev/cloister/store/embedded"
)

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

// bootLimit ends a run whose VM never comes back; a boot under emulation takes half a minute.
const bootLimit = 10 * time.Minute

// vms times a VM's first and second boot, by the steps that the platform tells of.
func vms(ctx context.Context, c cli, dir string) ([]row, error) {
	if _, err := c.run(ctx, "up"); err != nil {
		return nil, err
	}
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
	wait, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	var second map[string]time.Time
	for second["guest-attestation done"].IsZero() {
		if second, err = steps(ctx, c, asked); err != nil {
			return nil, err
		}
		select {
		case <-wait.Done():
			return nil, fmt.Errorf("waiting for the second boot: %w", wait.Err())
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
