package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestWatch(t *testing.T) {
	snapshot := `{"kind":"snapshot","vms":[{"vmId":"a"}]}` + "\n"
	rows := []struct {
		name, stream string
		messages     int
		ok           bool
	}{
		{"snapshot and change", snapshot + `{"kind":"vm","vm":{"vmId":"b"}}` + "\n", 2, true},
		{"no snapshot", `{"kind":"vm","vm":{"vmId":"b"}}` + "\n", 0, false},
		{"two snapshots", snapshot + snapshot, 1, false},
		{"broken line", snapshot + "{\n", 1, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, row.stream)
			}))
			defer s.Close()
			got := 0
			err := NewClient(s.URL, s.Client()).Watch(context.Background(), func(Message) error { got++; return nil })
			if got != row.messages || errors.Is(err, io.EOF) != row.ok {
				t.Fatalf("got %d messages and %v, want %d, clean end %v", got, err, row.messages, row.ok)
			}
		})
	}
}

func TestRefusalKeepsItsCode(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(ErrorResponse{*evidence.Refuse(evidence.CodeAuthz, "token", "used before", "a fresh one")})
	}))
	defer s.Close()
	_, err := NewClient(s.URL, s.Client()).Join(context.Background(), JoinRequest{})
	if evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Fatalf("got %v, want deny/authz", err)
	}
}
