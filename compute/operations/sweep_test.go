package operations

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"cloister.dev/cloister/store"
	"cloister.dev/cloister/store/embedded"
)

func TestSweep(t *testing.T) {
	e, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	now := time.Unix(1_800_000_000, 0).UTC()
	s := &Service{Store: store.Of[Operation](store.Open(e.Client(), "/test"), "operation"), Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	ended := func(ago time.Duration) *time.Time { at := now.Add(-ago); return &at }
	for id, o := range map[string]Operation{
		"running since long ago":  {Status: InProgress, Start: now.Add(-100 * Retention)},
		"ended a moment ago":      {Status: Succeeded, End: ended(time.Second)},
		"ended just within a day": {Status: Failed, End: ended(Retention - time.Second)},
		"gone: ended a day ago":   {Status: Succeeded, End: ended(Retention)},
		"gone: canceled long ago": {Status: Canceled, End: ended(30 * Retention)},
		"gone: failed long ago":   {Status: Failed, End: ended(30 * Retention)},
	} {
		if err := s.Store.Create(t.Context(), id, o); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // twice is as once
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		left, _, err := s.Store.List(t.Context(), "")
		if err != nil || len(left) != 3 {
			t.Fatalf("%v, left: %+v", err, left)
		}
		for _, it := range left {
			if it.ID[:4] == "gone" {
				t.Errorf("left: %s", it.ID)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestReadAction(t *testing.T) {
	for id, want := range map[string]string{
		"/subscriptions/s/resourceGroups/g":                                                         "Microsoft.Resources/subscriptions/resourceGroups/read",
		"/subscriptions/s/resourcegroups/g/providers/microsoft.compute/virtualmachines/web":         "microsoft.compute/virtualmachines/read",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/n/subnets/a": "microsoft.network/virtualnetworks/subnets/read",
	} {
		if got := readAction(id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}
