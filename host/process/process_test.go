package process

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, args ...string) Handle {
	t.Helper()
	h, err := Start(Spec{Path: "/bin/sleep", Name: "sleep", Args: args, Dir: "/", Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Stop(context.Background(), 0) })
	return h
}

func TestStopEndsTheProcess(t *testing.T) {
	h := start(t, "600")
	if !h.Alive() {
		t.Fatal("not alive after start")
	}
	if err := h.Stop(context.Background(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if h.Alive() {
		t.Error("alive after stop")
	}
	if err := h.Stop(context.Background(), time.Minute); err != nil {
		t.Errorf("a second stop: %v", err)
	}
}

func TestAReusedIDIsAStranger(t *testing.T) {
	h := start(t, "600")
	stranger := Handle{PID: h.PID, StartTime: h.StartTime + 1}
	if stranger.Alive() {
		t.Error("a process with another start time counts as alive")
	}
	if err := stranger.Stop(context.Background(), 0); err != nil {
		t.Error(err)
	}
	if !h.Alive() {
		t.Error("the signal reached the stranger")
	}
}

func TestWaitObeysTheContext(t *testing.T) {
	h := start(t, "600")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestStartNamesWhatIsMissing(t *testing.T) {
	if _, err := Start(Spec{Path: "/nonexistent", Name: "x", Log: filepath.Join(t.TempDir(), "log")}); err == nil {
		t.Error("started nothing without an error")
	}
}

func TestChildrenDoNotInheritDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	inherited, err := unix.Dup(int(w.Fd())) // not marked, as if this process had been started with it
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	start(t, "600")
	if err := unix.Close(inherited); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) { // blocks while a child holds the other end
		t.Errorf("read %d, %v", n, err)
	}
}
