package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
)

// maxBuffered bounds the bodies that are held in memory at once, in bytes, whoever sends how many of them.
const maxBuffered = 128 << 20

// maxBusy bounds how many requests are judged at once, and maxWaiting how many wait for their turn; more are told to
// come again.
const (
	maxBusy    = 64
	maxWaiting = 4096
)

// firstRead is how much room a body gets before it shows how long it is, in bytes.
const firstRead = 8 << 10

// admission bounds what strangers can make the service hold and do at once. A slow sender holds what it has sent, and
// no turn.
type admission struct {
	buffered atomic.Int64 // bytes of bodies
	waiting  atomic.Int64
	busy     chan struct{}
}

func newAdmission() *admission { return &admission{busy: make(chan struct{}, maxBusy)} }

func tooMany(field, got, want string) error {
	return tooBusy{evidence.Refuse(evidence.CodeUnavailable, field, got, want)}
}

// tooBusy marks a refusal that the caller can mend by coming again: 429.
type tooBusy struct{ error }

func (t tooBusy) Unwrap() error { return t.error }

// take reserves memory.
func (a *admission) take(n int64) error {
	if a.buffered.Add(n) > maxBuffered {
		a.buffered.Add(-n)
		return tooMany("bodies", fmt.Sprintf("more than %d bytes at once", maxBuffered), "fewer")
	}
	return nil
}

// read reads a bounded body, and gives back its memory when release is called. Compressed bodies are refused: their
// size says nothing.
func (a *admission) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	held := int64(0)
	release = func() { a.buffered.Add(-held) }
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, release, evidence.Refuse(evidence.CodeParse, "Content-Encoding", enc, "none")
	}
	if r.ContentLength > request.MaxBody {
		w.Header().Set("Connection", "close")
		return nil, release, tooLong()
	}
	in := http.MaxBytesReader(w, r.Body, request.MaxBody)
	for {
		if len(body) == cap(body) {
			room := max(firstRead, 2*cap(body))
			if room > request.MaxBody {
				room = request.MaxBody + 1
			}
			if err := a.take(int64(room) - held); err != nil {
				return nil, release, err
			}
			held = int64(room)
			body = append(make([]byte, 0, room), body...)
		}
		n, err := in.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		var large *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return body, release, nil
		case errors.As(err, &large):
			return nil, release, tooLong()
		case err != nil:
			return nil, release, evidence.Refuse(evidence.CodeParse, "body", "ended early", "a whole body")
		}
	}
}

func tooLong() error {
	return evidence.Refuse(evidence.CodeParse, "body", fmt.Sprintf("more than %d bytes", request.MaxBody), fmt.Sprintf("at most %d bytes", request.MaxBody))
}

// turn waits until a request may be judged. Whoever has gone waits no longer.
func (a *admission) turn(ctx context.Context) (done func(), err error) {
	if a.waiting.Add(1) > maxWaiting {
		a.waiting.Add(-1)
		return nil, tooMany("requests", fmt.Sprintf("more than %d waiting", maxWaiting), "fewer")
	}
	defer a.waiting.Add(-1)
	select {
	case a.busy <- struct{}{}:
		return func() { <-a.busy }, nil
	case <-ctx.Done():
		return nil, tooMany("request", "given up", "patience")
	}
}
