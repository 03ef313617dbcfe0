package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/doctor"
	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/supervise"
)

// upDeadline is how long the services may take until every one answers.
const upDeadline = time.Minute

func installation(cmd *cobra.Command) (*install.Installation, error) {
	state, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return nil, err
	}
	return install.Open(state, filepath.Dir(self), time.Now)
}

// existing is installation for commands that must not make one. It wraps platform.ErrNotUp when there is none.
func existing(cmd *cobra.Command) (*install.Installation, error) {
	state, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	if there, err := install.Exists(state); err != nil {
		return nil, err
	} else if !there {
		return nil, fmt.Errorf("%s: %w", state, platform.ErrNotUp)
	}
	return installation(cmd)
}

func newUp() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "Start the platform on this machine", Args: cobra.NoArgs,
		Long: `Start the platform on this machine: control plane, verifier, key keeper and host agent, each a process of its own.
Returns when every one answers. A second "up" starts only what does not run.

It writes STATE/client.env, with which any Azure client can be pointed at the platform.`,
		Example: "  cloister up\n  cloister up --foreground      # until Ctrl-C",
		RunE: func(cmd *cobra.Command, _ []string) error {
			foreground, err := cmd.Flags().GetBool("foreground")
			if err != nil {
				return err
			}
			hosts, err := cmd.Flags().GetBool("hosts-file")
			if err != nil {
				return err
			}
			i, err := installation(cmd)
			if err != nil {
				return err
			}
			if err := useHSM(cmd, i); err != nil {
				return err
			}
			if err := up(cmd.Context(), i, cmd.OutOrStdout()); err != nil {
				return err
			}
			if err := hostsFile(cmd.OutOrStdout(), i, hosts); err != nil {
				return err
			}
			if !foreground {
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), "running; Ctrl-C ends the platform and its VMs")
			<-cmd.Context().Done()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			return down(ctx, i, cmd.OutOrStdout())
		},
	}
	addHSM(cmd)
	cmd.Flags().Bool("foreground", false, "stay, and end everything on Ctrl-C")
	cmd.Flags().Bool("hosts-file", false, "add the vault's name to /etc/hosts (needs root)")
	return cmd
}

// up prepares and starts everything. What is missing on the machine is named before anything starts.
func up(ctx context.Context, i *install.Installation, out io.Writer) error {
	if err := doctor.Err(doctor.Look(doctor.ToRun(i.Dir))); err != nil {
		return err
	}
	s, err := i.HTTP()
	if err != nil {
		return err
	}
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, upDeadline)
	defer cancel()
	begun := time.Now()
	fmt.Fprintf(out, "state: %s\n", i.Dir)
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "not root: all VMs run as your own user, and are not kept apart from each other by user id")
	}
	fmt.Fprintln(out, "software mode: evidence is signed by this installation's own root; nothing protects VMs from this machine")
	if err := i.Prepare(ctx); err != nil {
		return err
	}
	tell := func(name string, already bool) {
		word := "started"
		if already {
			word = "runs already"
		}
		fmt.Fprintf(out, "  %-9s %s\n", name, word)
	}
	// The key keeper makes the key that signs its answers at its first start; the others' configuration pins it.
	services := i.Services()
	if err := s.Up(ctx, services[:3], tell); err != nil {
		return err
	}
	if err := i.Finish(ctx); err != nil {
		return err
	}
	if err := s.Up(ctx, services[3:], tell); err != nil {
		return err
	}
	fmt.Fprintf(out, "ready in %.1f s; clients: %s\n", time.Since(begun).Seconds(), filepath.Join(i.Dir, "client.env"))
	return nil
}

// hostsFile prints what clients with a stubborn resolver need, and adds it only with consent.
func hostsFile(out io.Writer, i *install.Installation, consent bool) error {
	const path = "/etc/hosts"
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var missing []string
	for _, line := range i.HostsLines() {
		if !strings.Contains(string(raw), strings.Fields(line)[1]) {
			missing = append(missing, line)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !consent {
		fmt.Fprintf(out, "for clients that don't resolve names under localhost, add to %s (or: cloister up --hosts-file):\n  %s\n", path, strings.Join(missing, "\n  "))
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(missing, "\n") + "\n")
	return errors.Join(err, f.Close())
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the platform and its VMs", Long: "End what \"up\" started and the VMs it runs, and nothing else. State is kept: the next \"up\" goes on.",
		Args: cobra.NoArgs, Example: "  cloister down",
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := existing(cmd)
			if errors.Is(err, platform.ErrNotUp) {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to end: no installation here")
				return nil
			}
			if err != nil {
				return err
			}
			return down(cmd.Context(), i, cmd.OutOrStdout())
		},
	}
}

func down(ctx context.Context, i *install.Installation, out io.Writer) error {
	s, err := i.HTTP()
	if err != nil {
		return err
	}
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	services := i.Services()
	ended := func(name string) { fmt.Fprintf(out, "  %-9s ended\n", name) }
	// The agent first, or it would start the VMs again; then the VMs; then what they rely on.
	if err := s.Down(ctx, services[4:], ended); err != nil {
		return err
	}
	config := filepath.Join(i.Dir, "host", "config.yaml")
	if _, err := os.Stat(config); err == nil {
		c, err := readHostConfig(config)
		if err != nil {
			return err
		}
		if err := endVMs(ctx, c); err != nil {
			return fmt.Errorf("ending VMs: %w", err)
		}
	}
	return s.Down(ctx, services[:4], ended)
}

// errNotRunning makes "status" exit with a status that scripts can test.
var errNotRunning = errors.New("not everything answers")

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Say which services run and answer", Args: cobra.NoArgs, Example: "  cloister status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			i, err := existing(cmd)
			if err != nil {
				return err
			}
			s, err := i.HTTP()
			if err != nil {
				return err
			}
			list, err := s.Status(cmd.Context(), i.Services())
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), o, i.Dir, list); err != nil {
				return err
			}
			for _, one := range list {
				if !one.Answers {
					return errNotRunning
				}
			}
			return nil
		},
	}
	addOutput(cmd)
	return cmd
}

func printStatus(out io.Writer, format, dir string, list []supervise.Status) error {
	if format == "json" {
		return printJSON(out, map[string]any{"state": dir, "mode": "software", "services": list})
	}
	fmt.Fprintf(out, "state  %s\nmode   software: nothing protects VMs from this machine\n", dir)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tRUNS\tANSWERS\tPID\tMEMORY\tADDRESS")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%v\t%v\t%d\t%d MiB\t%s\n", s.Name, s.Running, s.Answers, s.PID, s.MemoryMiB, s.Address)
	}
	return w.Flush()
}
