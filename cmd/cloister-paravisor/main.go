// Command cloister-paravisor runs the trusted component of one VM. The host agent starts one per VM and
// talks to it over RunDir/control.sock.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cloister.dev/cloister/paravisor"
	"cloister.dev/cloister/paravisor/client"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := command(log).ExecuteContext(context.Background()); err != nil {
		log.Error("cloister-paravisor ends", "error", err)
		os.Exit(1)
	}
}

func command(log *slog.Logger) *cobra.Command {
	root := &cobra.Command{Use: "cloister-paravisor", Short: "The trusted component of one confidential VM", SilenceUsage: true, SilenceErrors: true}
	var file string
	run := &cobra.Command{
		Use: "run --config FILE", Short: "Attest, open the guest state, serve vTPM and variables until SIGTERM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readConfig(file)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return serve(ctx, *config, log)
		},
	}
	run.Flags().StringVar(&file, "config", "", "configuration, JSON")
	if err := run.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined one line above
	}
	check := &cobra.Command{
		Use: "check FILE", Short: "Check a configuration without starting anything", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := readConfig(args[0])
			return err
		},
	}
	config := &cobra.Command{Use: "config", Short: "About the configuration"}
	config.AddCommand(check)
	root.AddCommand(run, config)
	return root
}

func readConfig(file string) (*client.Config, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var c client.Config
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w", file, err)
	}
	if dec.More() {
		return nil, fmt.Errorf("reading the configuration %s: more than one object", file)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return &c, nil
}

// serve runs the session and its control interface. After a failure the interface stays, so that the
// host can ask why, until a stop is asked for.
func serve(ctx context.Context, config client.Config, log *slog.Logger) error {
	// No core dumps, and no ptrace by other processes of the same user: keys are in this memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding memory dumps: %w", err)
	}
	log = log.With("vmId", config.VMID)
	session := paravisor.New(paravisor.Options{
		Config: config, Hardware: softwareCPU(config), Verifier: verifier(config), KeyKeeper: keyKeeper(config),
		Now: time.Now, Rand: rand.Reader, Log: log,
	})
	l, err := paravisor.Listen(filepath.Join(config.RunDir, client.ControlSocket))
	if err != nil {
		return fmt.Errorf("serving the control interface: %w", err)
	}
	server := &http.Server{Handler: session.Handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()

	sessionErr := session.Run(ctx)
	if sessionErr != nil {
		select {
		case <-ctx.Done():
		case <-session.StopAsked():
		}
	}
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil { // a long poll is cut off; nothing durable depends on it
		log.Info("control connections cut", "reason", err)
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(sessionErr, err)
	}
	return sessionErr
}
