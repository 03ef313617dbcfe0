// Package collateraltest has stand-ins for AMD's key distribution service and Intel's provisioning certification service,
// with knobs for all the ways in which such services fail. Everything needs a testing.TB, so that no product can use it.
package collateraltest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Knobs break a server. The zero value breaks nothing. Set changes them while a server runs.
type Knobs struct {
	Silent     bool   // takes the request and never answers
	Huge       int64  // sends a body of this many bytes
	Status     int    // answers with this status
	RetryAfter string // and this header
	Location   string // and redirects here
}

// Server is a stand-in that runs.
type Server struct {
	URL string

	mu    sync.Mutex
	knobs Knobs
	asked []string
	stop  chan struct{}
}

// start runs a handler behind knobs until the test ends.
func start(t testing.TB, h http.Handler) *Server {
	t.Helper()
	s := &Server{stop: make(chan struct{})}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.RequestURI())
		k := s.knobs
		s.mu.Unlock()
		switch {
		case k.Silent:
			select {
			case <-r.Context().Done():
			case <-s.stop:
			}
		case k.Huge > 0:
			block := []byte(strings.Repeat("0", 1<<16))
			for sent := int64(0); sent < k.Huge; sent += int64(len(block)) {
				if _, err := w.Write(block); err != nil {
					return // the client had enough, as it should
				}
			}
		case k.Status != 0:
			if k.RetryAfter != "" {
				w.Header().Set("Retry-After", k.RetryAfter)
			}
			if k.Location != "" {
				w.Header().Set("Location", k.Location)
			}
			w.WriteHeader(k.Status)
		default:
			h.ServeHTTP(w, r)
		}
	}))
	s.URL = srv.URL
	t.Cleanup(func() {
		close(s.stop)
		srv.CloseClientConnections()
		srv.Close()
	})
	return s
}

// Set turns the knobs.
func (s *Server) Set(k Knobs) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.knobs = k
}

// Asked are the paths and queries of all requests so far.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// write sends bytes; a client that left is no mistake of the server.
func write(t testing.TB, w http.ResponseWriter, raw []byte) {
	if _, err := w.Write(raw); err != nil {
		t.Log("a client left:", err)
	}
}
