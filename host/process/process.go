// Package process starts processes that outlive the agent, and finds them again after its restart.
//
// A process is named by its id and start time together, so that a reused id is never taken for it, and is
// signalled through a pidfd, so that no signal ever reaches a stranger.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handle names a process for as long as the machine is up.
type Handle struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// Spec is how a process is started.
type Spec struct {
	Path  string   // as the child sees it: /proc/self/fd/N runs an open file
	Args  []string // without the program's name
	Name  string   // argv[0]
	Dir   string
	Log   string     // file that takes stdout and stderr, appended
	Files []*os.File // become descriptors 3, 4, …
	Env   []string   // NAME=VALUE, besides the few that every process gets
	UID   uint32     // 0 keeps the agent's own
	GID   uint32
}

// Start runs a process in a session of its own.
func Start(s Spec) (Handle, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Handle{}, err
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: s.Path, Args: append([]string{s.Name}, s.Args...), Dir: s.Dir, Stdout: log, Stderr: log, ExtraFiles: s.Files,
		Env: append(environment(), s.Env...), SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if s.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID}
	}
	if err := keepToMyself(); err != nil {
		return Handle{}, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	if err := cmd.Start(); err != nil {
		return Handle{}, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	h := Handle{PID: cmd.Process.Pid}
	h.StartTime, err = startTime(h.PID)
	go func() { _ = cmd.Wait() }() // reaps; how it ended is seen by those who Wait on the handle
	if err != nil {
		return Handle{}, fmt.Errorf("starting %s: it ended at once; see %s", s.Name, s.Log)
	}
	return h, nil
}

// keepToMyself marks every descriptor beyond the standard ones to be closed in children. What this program opened is
// marked already; what it was given by its own parent (a lock file, say) is not, and a child that lives for long would
// hold it.
func keepToMyself() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("inherited descriptors: %w", err)
	}
	return nil
}

// environment passes on only what a child may need: no secrets of the agent travel this way.
func environment() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if v, ok := os.LookupEnv("CLOISTER_FAILPOINT"); ok {
		env = append(env, "CLOISTER_FAILPOINT="+v)
	}
	return env
}

// Alive tells whether that very process still runs.
func (h Handle) Alive() bool {
	if h.PID <= 0 {
		return false
	}
	t, err := startTime(h.PID)
	return err == nil && t == h.StartTime
}

// Signal sends a signal; a process that is gone is no error.
func (h Handle) Signal(sig unix.Signal) error {
	fd, err := h.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %v to process %d: %w", sig, h.PID, err)
	}
	return nil
}

// Wait returns nil when the process has ended, or the context's error.
func (h Handle) Wait(ctx context.Context) error {
	fd, err := h.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", h.PID, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// Stop asks the process to end, and makes it end when it has not after the grace period.
func (h Handle) Stop(ctx context.Context, grace time.Duration) error {
	if err := h.Signal(unix.SIGTERM); err != nil {
		return err
	}
	soft, cancel := context.WithTimeout(ctx, grace)
	err := h.Wait(soft)
	cancel()
	if err == nil {
		return nil
	}
	if err := h.Signal(unix.SIGKILL); err != nil {
		return err
	}
	return h.Wait(ctx)
}

// open gives a pidfd of that very process, or -1 when it is gone.
func (h Handle) open() (int, error) {
	if h.PID <= 0 {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(h.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("process %d: %w", h.PID, err)
	}
	if !h.Alive() { // checked after opening: the id may have been reused before
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// startTime reads field 22 of /proc/PID/stat, and refuses a zombie. Source: proc(5).
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Naming finds the processes whose arguments hold one of the given texts, such as a folder that is only theirs.
func Naming(texts ...string) ([]Handle, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Handle
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue // it has ended meanwhile
		}
		for _, text := range texts {
			if text != "" && strings.Contains(string(raw), text) {
				if t, err := startTime(pid); err == nil {
					found = append(found, Handle{PID: pid, StartTime: t})
				}
				break
			}
		}
	}
	return found, nil
}
