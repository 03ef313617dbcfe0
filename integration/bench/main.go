// Command bench measures a Cloister installation from the outside, each figure beside a reference that is measured in
// the same run. It prints a table and writes JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
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

// groups are measured in this order. Each leaves the platform up or down as it likes: the next asks for what it needs.
var groups = []struct {
	name    string
	measure func(ctx context.Context, c cli, dir string) ([]row, error)
}{
	{"launch", digests},
	{"appraise", appraisals},
	{"image", imageCheck},
	{"vtpm", tpmProxy},
	{"keys", keyOperations},
	{"platform", services},
	{"release", release},
	{"vm", vms},
}

func main() {
	out := flag.String("o", "bench.json", "file for the figures")
	bin := flag.String("bin", "bin", "folder of the programs")
	names := flag.String("only", "", "groups to measure, with commas between: launch, appraise, image, vtpm, keys, platform, release, vm (default: all)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *out, strings.FieldsFunc(*names, func(r rune) bool { return r == ',' })); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, out string, only []string) (err error) {
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
	for _, g := range groups {
		if len(only) > 0 && !slices.Contains(only, g.name) {
			continue
		}
		more, err := g.measure(ctx, c, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
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

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
