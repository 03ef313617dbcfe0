package supervise

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func sleeper(name, health string) Service {
	return Service{Name: name, Program: "/bin/sleep", Args: []string{"600"}, Health: health}
}

// answering serves health on a socket, in the place of the sleeping program.
func answering(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusNotFound)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return "unix:" + path + ":/healthz"
}

func TestUpIsIdempotentAndDownEndsOnlyItsOwn(t *testing.T) {
	ctx := context.Background()
	s := &Supervisor{Dir: t.TempDir()}
	services := []Service{sleeper("one", answering(t)), sleeper("two", answering(t))}
	var told []string
	up := func() {
		t.Helper()
		told = nil
		if err := s.Up(ctx, services, func(name string, already bool) {
			if already {
				name += " already"
			}
			told = append(told, name)
		}); err != nil {
			t.Fatal(err)
		}
	}
	up()
	t.Cleanup(func() { _ = s.Down(ctx, services, func(string) {}) })
	first, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	up()
	if got := strings.Join(told, ","); got != "one already,two already" {
		t.Errorf("second up told %s", got)
	}
	second, err := s.load()
	if err != nil || first["one"] != second["one"] {
		t.Errorf("second up started anew: %v %v %v", first, second, err)
	}
	st, err := s.Status(ctx, services)
	if err != nil || len(st) != 2 || !st[0].Running || !st[0].Answers || st[0].MemoryMiB < 0 {
		t.Errorf("status %+v %v", st, err)
	}
	if err := s.Down(ctx, services, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if running, err := s.Running(); running || err != nil {
		t.Errorf("running after down: %v %v", running, err)
	}
	if err := s.Down(ctx, services, func(name string) { t.Errorf("ended %s twice", name) }); err != nil {
		t.Errorf("second down: %v", err)
	}
}

func TestUpShowsWhyAServiceEnded(t *testing.T) {
	s := &Supervisor{Dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.Up(ctx, []Service{{Name: "bad", Program: "/bin/ls", Args: []string{"/nonexistent-folder"}, Health: "unix:/nonexistent:/healthz"}}, func(string, bool) {})
	if err == nil || !strings.Contains(err.Error(), "bad") {
		t.Fatalf("error %v", err)
	}
	raw, readErr := os.ReadFile(s.log("bad"))
	if readErr != nil || !strings.Contains(string(raw), "nonexistent-folder") {
		t.Errorf("log %q %v", raw, readErr)
	}
}

func TestLock(t *testing.T) {
	s := &Supervisor{Dir: t.TempDir()}
	unlock, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(); err == nil {
		t.Error("locked twice")
	}
	unlock()
	if unlock, err = s.Lock(); err != nil {
		t.Fatal(err)
	}
	unlock()
}
