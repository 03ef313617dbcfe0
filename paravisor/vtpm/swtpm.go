// Package vtpm runs a VM's virtual TPM and stands between it and the VM.
//
// The TPM itself is swtpm, a process of its own. This package starts it, moves its state in and out
// over its control channel, provisions it, and serves QEMU a socket that looks like swtpm's. On the way
// it adds the two indexes that are larger than swtpm's limit (the HCL report and the AK certificate),
// keeps the guest from removing the vTPM's identity, and lets no answer of a state-changing command
// leave before the state is durable.
package vtpm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Swtpm is one running swtpm. Its commands and its control messages travel on two socket pairs, so
// that nobody else can reach it.
type Swtpm struct {
	cmd     *exec.Cmd
	dir     string
	control *control
	data    *dataChannel
	exited  chan struct{}
	waitErr error
}

// Process says how to run swtpm.
type Process struct {
	Program string // "" = swtpm from PATH
	Scratch string // a directory on tmpfs; swtpm's own copy of its state lives below it, encrypted
	LogFile string // "" = none. Never an inherited pipe: a child that holds one hangs its reader
}

// Start runs swtpm without any state; Load or PowerOn comes next.
//
// swtpm insists on a state directory. It is under Scratch, and what swtpm writes there is encrypted
// with a key that exists only in the two processes and ends with them.
func Start(p Process) (*Swtpm, error) {
	program := p.Program
	if program == "" {
		found, err := exec.LookPath("swtpm")
		if err != nil { // a host agent may start us with an empty PATH
			found, err = exec.LookPath("/usr/bin/swtpm")
		}
		if err != nil {
			return nil, fmt.Errorf("looking for swtpm (package swtpm): %w", err)
		}
		program = found
	}
	dir, err := os.MkdirTemp(p.Scratch, "vtpm-")
	if err != nil {
		return nil, fmt.Errorf("making the vTPM's scratch directory: %w", err)
	}
	s, err := start(program, dir, p.LogFile)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func start(program, dir, logFile string) (s *Swtpm, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := unixConn(ours)
	if err != nil {
		return nil, err
	}
	keyReader, keyWriter, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer keyReader.Close()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, errors.Join(err, conn.Close(), keyWriter.Close())
	}
	_, err = keyWriter.Write(key) // 32 bytes always fit a pipe
	clear(key)
	if err := errors.Join(err, keyWriter.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("handing over the scratch key: %w", err), conn.Close())
	}
	if logFile == "" {
		logFile = filepath.Join(dir, "swtpm.log")
	}
	// Descriptors 3 and 4 are the first two ExtraFiles.
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir+",mode=0600",
		"--ctrl", "type=unixio,clientfd=3", "--key", "fd=4,format=binary,mode=aes-256-cbc",
		"--log", "file="+logFile+",level=1,truncate")
	cmd.ExtraFiles = []*os.File{theirs, keyReader}
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	s = &Swtpm{cmd: cmd, dir: dir, control: &control{conn: conn}, exited: make(chan struct{})}
	if err := startOnLastingThread(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("starting swtpm: %w", err), conn.Close())
	}
	go func() {
		s.waitErr = cmd.Wait()
		close(s.exited)
	}()
	if err := s.connectData(); err != nil {
		return nil, errors.Join(err, s.Kill())
	}
	return s, nil
}

func (s *Swtpm) connectData() error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	if err := s.control.setDataFD(theirs); err != nil {
		return errors.Join(err, ours.Close())
	}
	s.data = &dataChannel{file: ours}
	return nil
}

// Load hands swtpm a permanent state that State gave earlier. Only before PowerOn.
func (s *Swtpm) Load(permanent []byte) error { return s.control.setState(permanent) }

// PowerOn resets the TPM as a power cycle does: its permanent state stays, everything else goes.
func (s *Swtpm) PowerOn() error { return s.control.init() }

// PowerOff stops the TPM but not swtpm.
func (s *Swtpm) PowerOff() error { return s.control.stop() }

// State is the TPM's permanent state in clear.
func (s *Swtpm) State() ([]byte, error) { return s.control.state() }

// Send implements go-tpm's transport.TPM.
func (s *Swtpm) Send(command []byte) ([]byte, error) { return s.data.exchange(command) }

// Exited is closed when swtpm has ended, for whatever reason.
func (s *Swtpm) Exited() <-chan struct{} { return s.exited }

// Pid is swtpm's process id.
func (s *Swtpm) Pid() int { return s.cmd.Process.Pid }

// Kill ends swtpm and removes its scratch directory. State that nobody fetched is gone.
func (s *Swtpm) Kill() error {
	var errs []error
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	<-s.exited
	errs = append(errs, s.control.close())
	if s.data != nil {
		errs = append(errs, s.data.file.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// startOnLastingThread starts a process from a thread that stays: PDEATHSIG fires when the *thread*
// that forked ends, and Go ends threads.
func startOnLastingThread(cmd *exec.Cmd) error {
	result := make(chan error)
	starter().requests <- startRequest{cmd, result}
	return <-result
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

type processStarter struct{ requests chan startRequest }

var starter = sync.OnceValue(newStarter)

// dataChannel carries TPM commands, strictly one at a time.
type dataChannel struct {
	mu   sync.Mutex
	file *os.File
}

func (d *dataChannel) exchange(command []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.file.Write(command); err != nil {
		return nil, fmt.Errorf("sending a TPM command: %w", err)
	}
	answer, err := readTPMMessage(d.file)
	if err != nil {
		return nil, fmt.Errorf("reading a TPM answer: %w", err)
	}
	return answer, nil
}

// maxTPMMessage bounds commands and answers, in bytes; swtpm's own buffer is 4096.
const maxTPMMessage = 4096

// readTPMMessage reads one command or answer: a 10-byte header whose bytes 2 to 5 hold the whole length (big-endian).
func readTPMMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := be32(head[2:])
	if size < 10 || size > maxTPMMessage {
		return nil, fmt.Errorf("a TPM message of %d bytes; wanted 10 to %d", size, maxTPMMessage)
	}
	message := make([]byte, size)
	copy(message, head)
	if _, err := io.ReadFull(r, message[10:]); err != nil {
		return nil, fmt.Errorf("a TPM message was cut: %w", err)
	}
	return message, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}
