// Package supervise starts the installation's services as processes of their own, says whether they answer, and
// ends them. It ends nothing that it did not start.
package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/host/process"
)

// Service is one program of the installation.
type Service struct {
	Name    string
	Program string
	Args    []string
	Env     []string // NAME=VALUE, besides the few that every process gets
	Health  string   // URL that answers 200 when the service does; unix:PATH:URLPATH for a socket
}

// Supervisor keeps a list of what it started in a file.
type Supervisor struct {
	Dir  string // state folder
	HTTP *http.Client
}

// started is the file's content.
type started map[string]process.Handle

func (s *Supervisor) file() string              { return filepath.Join(s.Dir, "processes.json") }
func (s *Supervisor) log(service string) string { return filepath.Join(s.Dir, "log", service+".log") }

// Lock keeps two commands from starting or ending services at the same time.
func (s *Supervisor) Lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another cloister up or down works on %s", s.Dir)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

func (s *Supervisor) load() (started, error) {
	raw, err := os.ReadFile(s.file())
	if errors.Is(err, os.ErrNotExist) {
		return started{}, nil
	}
	if err != nil {
		return nil, err
	}
	st := started{}
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file(), err)
	}
	return st, nil
}

func (s *Supervisor) save(st started) error {
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file()+".part", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(s.file()+".part", s.file())
}

// Up starts what does not run and waits until everything answers. It tells of each service as it answers.
func (s *Supervisor) Up(ctx context.Context, services []Service, tell func(name string, already bool)) error {
	if err := os.MkdirAll(filepath.Join(s.Dir, "log"), 0o700); err != nil {
		return err
	}
	st, err := s.load()
	if err != nil {
		return err
	}
	already := map[string]bool{}
	for _, svc := range services {
		if already[svc.Name] = st[svc.Name].Alive(); already[svc.Name] {
			continue
		}
		h, err := process.Start(process.Spec{Path: svc.Program, Name: filepath.Base(svc.Program), Args: svc.Args, Dir: "/", Log: s.log(svc.Name), Env: svc.Env})
		if err != nil {
			return fmt.Errorf("%s: %w", svc.Name, err)
		}
		st[svc.Name] = h
		if err := s.save(st); err != nil {
			return errors.Join(err, h.Stop(ctx, 0))
		}
	}
	for _, svc := range services {
		if err := s.await(ctx, svc, st[svc.Name]); err != nil {
			return err
		}
		tell(svc.Name, already[svc.Name])
	}
	return nil
}

func (s *Supervisor) await(ctx context.Context, svc Service, h process.Handle) error {
	for {
		err := s.healthy(ctx, svc)
		if err == nil {
			return nil
		}
		if !h.Alive() {
			return fmt.Errorf("%s ended; the last it said:\n%s", svc.Name, s.tail(svc.Name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w; the last it said:\n%s", svc.Name, err, s.tail(svc.Name))
		case <-time.After(25 * time.Millisecond):
		}
	}
}

func (s *Supervisor) healthy(ctx context.Context, svc Service) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client, url := s.HTTP, svc.Health
	if rest, ok := strings.CutPrefix(svc.Health, "unix:"); ok {
		socket, path, _ := strings.Cut(rest, ":")
		client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}, DisableKeepAlives: true}}
		url = "http://localhost" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", svc.Name, resp.Status)
	}
	return nil
}

// tailLines is how much of a log an error shows.
const tailLines = 8

func (s *Supervisor) tail(service string) string {
	raw, err := os.ReadFile(s.log(service))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-tailLines):], "\n  ")
}

// Status is one service as it is now.
type Status struct {
	Name      string `json:"name"`
	Running   bool   `json:"running"`
	Answers   bool   `json:"answers"`
	PID       int    `json:"pid,omitempty"`
	MemoryMiB int    `json:"memoryMiB,omitempty"`
	Address   string `json:"address,omitempty"`
}

// Status looks at each service.
func (s *Supervisor) Status(ctx context.Context, services []Service) ([]Status, error) {
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	out := make([]Status, 0, len(services))
	for _, svc := range services {
		h := st[svc.Name]
		one := Status{Name: svc.Name, Running: h.Alive(), Address: strings.TrimSuffix(strings.TrimSuffix(svc.Health, "/healthz"), ":")}
		if one.Running {
			one.PID, one.MemoryMiB = h.PID, memoryMiB(h.PID)
			one.Answers = s.healthy(ctx, svc) == nil
		}
		out = append(out, one)
	}
	return out, nil
}

// memoryMiB is a process's resident memory.
func memoryMiB(pid int) int {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident int
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		return 0
	}
	return resident * os.Getpagesize() >> 20
}

// Running tells whether any of the services runs.
func (s *Supervisor) Running() (bool, error) {
	st, err := s.load()
	for _, h := range st {
		if h.Alive() {
			return true, err
		}
	}
	return false, err
}

// grace is how long a service may take to end by itself.
const grace = 15 * time.Second

// Down ends the services in the reverse of the order in which they are started.
func (s *Supervisor) Down(ctx context.Context, services []Service, tell func(name string)) error {
	st, err := s.load()
	if err != nil {
		return err
	}
	for i := len(services) - 1; i >= 0; i-- {
		name := services[i].Name
		h, known := st[name]
		if !known {
			continue
		}
		if h.Alive() {
			if err := h.Stop(ctx, grace); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			tell(name)
		}
		delete(st, name)
		if err := s.save(st); err != nil {
			return err
		}
	}
	return nil
}
