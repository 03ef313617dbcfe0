package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/host"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/launcher/software"
)

func newHost() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "The agent on a server", Example: "  cloister host run --config host.yaml"}
	run := &cobra.Command{
		Use: "run --config FILE", Short: "Keep this host's VMs until SIGTERM; VMs go on running", Args: cobra.NoArgs, Example: "  cloister host run --config host.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := hostConfig(cmd)
			if err != nil {
				return err
			}
			return runHost(cmd.Context(), c)
		},
	}
	end := &cobra.Command{
		Use: "end-vms --config FILE", Short: "End all VMs of a host whose agent does not run", Args: cobra.NoArgs, Example: "  cloister host end-vms --config host.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := hostConfig(cmd)
			if err != nil {
				return err
			}
			return endVMs(cmd.Context(), c)
		},
	}
	for _, c := range []*cobra.Command{run, end} {
		c.Flags().String("config", "", "configuration file (YAML)")
		required(c, "config")
	}
	cmd.AddCommand(run, end)
	return cmd
}

func hostConfig(cmd *cobra.Command) (host.Config, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return host.Config{}, err
	}
	return readHostConfig(path)
}

func readHostConfig(path string) (host.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return host.Config{}, err
	}
	var c host.Config
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return host.Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.Validate(); err != nil {
		return host.Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func softwareLauncher(c host.Config) *software.Launcher {
	return &software.Launcher{Firmware: c.Software.Firmware, Socket: c.Software.Socket, Accel: c.Software.Accel}
}

func runHost(ctx context.Context, c host.Config) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	control, err := connect(ctx, c, log)
	if err != nil {
		return err
	}
	agent, err := host.New(c, host.Deps{Launcher: softwareLauncher(c), Control: control, Log: log, Now: time.Now})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agent.Run(ctx) })
	if c.Metrics != "" {
		group.Go(func() error { return serveMetrics(ctx, c.Metrics, agent) })
	}
	return group.Wait()
}

// connect waits for a control plane that can't be reached yet. A refusal ends it.
func connect(ctx context.Context, c host.Config, log *slog.Logger) (*api.Client, error) {
	const most = 5 * time.Second
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		control, err := host.Connect(ctx, c, time.Now)
		var unreachable *net.OpError
		if err == nil || !errors.As(err, &unreachable) {
			return control, err
		}
		log.Warn("the control plane can't be reached yet", "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// serveMetrics offers /metrics and /healthz in clear: bind it to loopback or a network of the operator's.
func serveMetrics(ctx context.Context, address string, agent *host.Agent) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), agent.Collector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !agent.Ready() {
			http.Error(w, "the control plane has not taken this host's report yet, or probes its platform", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "ok")
	})
	srv := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// endVMs ends what a host's agent left running.
func endVMs(ctx context.Context, c host.Config) error {
	return host.EndVMs(ctx, c, softwareLauncher(c), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
}
