package softchip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// Config is the configuration file.
type Config struct {
	Dir    string `json:"dir" yaml:"dir"`       // what Init made
	Socket string `json:"socket" yaml:"socket"` // unix socket; only the chip's own user may launch there
}

// Load reads a configuration file; members that are not known are mistakes.
func Load(file string) (Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	var c Config
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return Config{}, fmt.Errorf("reading %s: %w", file, err)
	}
	return c, nil
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	for _, p := range []struct{ name, value string }{{"dir", c.Dir}, {"socket", c.Socket}} {
		if !filepath.IsAbs(p.value) {
			errs = append(errs, fmt.Errorf("%s: got %q, want an absolute path", p.name, p.value))
		}
	}
	if len(c.Socket) > 107 {
		errs = append(errs, fmt.Errorf("socket: got %d bytes, want at most 107", len(c.Socket)))
	}
	return errors.Join(errs...)
}

// Run serves until the context ends. One process at a time holds the chip's directory.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := c.Validate(); err != nil {
		return err
	}
	chip, err := Open(c.Dir, MeasureSoftware, rand.Reader)
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.Dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("locking the chip: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("locking the chip: another process has it: %w", err)
	}
	// We hold the lock, so a socket that is there was left by a process that died.
	if err := os.Remove(c.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	if err := os.Chmod(c.Socket, 0o666); err != nil {
		return errors.Join(fmt.Errorf("restricting the socket: %w", err), l.Close())
	}
	srv := &http.Server{Handler: handler(chip, log), ConnContext: withConn, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	log.Info("serving evidence of a software root; it protects from nothing on this host", "socket", c.Socket)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener{l}) }()
	select {
	case err := <-done:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		return fmt.Errorf("ending: %w", err)
	}
	return nil
}
