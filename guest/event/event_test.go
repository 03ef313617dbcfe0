package event

import (
	"testing"
	"time"
)

func TestLine(t *testing.T) {
	e := Event{Time: time.Unix(1, 0).UTC(), Step: "image", State: Done, Detail: map[string]string{"k": "v\n"}}
	want := "\nCLOISTER-EVENT {\"time\":\"1970-01-01T00:00:01Z\",\"step\":\"image\",\"state\":\"done\",\"detail\":{\"k\":\"v\\n\"}}\n"
	if got := string(e.Line()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	e.Time = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) // a clock that the host set to nonsense
	if got := string(e.Line()); len(got) < len(Prefix)+10 {
		t.Errorf("%q", got)
	}
}
