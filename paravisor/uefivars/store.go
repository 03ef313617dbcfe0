// Package uefivars serves the firmware's variable store to QEMU.
//
// QEMU takes the store as a flash drive; the drive here is a network block device on a unix socket, so
// that no clear copy lies in the host's file system and a change reaches the sealed guest state.
package uefivars

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// CommitDelay is how long a change may wait for more changes before it is made durable without a flush.
// QEMU's flash passes each byte that the firmware programs, and seldom flushes.
const CommitDelay = 200 * time.Millisecond

// Store is the variable store in memory, with a way to make it durable.
type Store struct {
	commit func([]byte) error
	broken func(error)
	delay  time.Duration

	mu      sync.Mutex
	bytes   []byte
	durable []byte
	timer   *time.Timer
	closed  bool
	commits uint64
}

// NewStore begins with durable contents. commit gets a copy; broken is told when a delayed commit fails.
func NewStore(contents []byte, delay time.Duration, commit func([]byte) error, broken func(error)) *Store {
	return &Store{commit: commit, broken: broken, delay: delay, bytes: bytes.Clone(contents), durable: bytes.Clone(contents)}
}

// Size is the size of the store, in bytes. It never changes.
func (s *Store) Size() int { return len(s.bytes) }

// Contents is a copy of the store.
func (s *Store) Contents() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.bytes)
}

// Commits counts what was made durable.
func (s *Store) Commits() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

func (s *Store) inside(offset uint64, length int) bool {
	return offset <= uint64(len(s.bytes)) && uint64(length) <= uint64(len(s.bytes))-offset
}

// ReadAt copies out; false when the range is not inside the store.
func (s *Store) ReadAt(p []byte, offset uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside(offset, len(p)) {
		return false
	}
	copy(p, s.bytes[offset:])
	return true
}

// WriteAt copies in and lets the change become durable soon; false when the range is not inside the store.
func (s *Store) WriteAt(p []byte, offset uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.inside(offset, len(p)) {
		return false
	}
	copy(s.bytes[offset:], p)
	if s.timer == nil {
		s.timer = time.AfterFunc(s.delay, func() {
			if err := s.Flush(); err != nil {
				s.broken(err)
			}
		})
	}
	return true
}

// Flush makes everything durable before it returns.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushLocked()
}

func (s *Store) flushLocked() error {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if bytes.Equal(s.bytes, s.durable) {
		return nil
	}
	now := bytes.Clone(s.bytes)
	if err := s.commit(now); err != nil {
		return fmt.Errorf("committing the UEFI variables: %w", err)
	}
	s.durable = now
	s.commits++
	return nil
}

// Close makes everything durable and takes no writes any more.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.flushLocked()
}
