package quota

import (
	"errors"
	"testing"
)

func TestTakeAndFree(t *testing.T) {
	l := Limits{Cores: 10, VMs: 2, Family: 8, Families: map[string]int{"small": 4}}
	for _, r := range []struct {
		name    string
		used    map[string]int
		need    Need
		refused string // counter; "" means granted
	}{
		{"fits", nil, Need{"big", 8}, ""},
		{"just fits", map[string]int{"big": 4, Cores: 4, VMs: 1}, Need{"big", 4}, ""},
		{"family", map[string]int{"big": 5, Cores: 5, VMs: 1}, Need{"big", 4}, "big"},
		{"family with its own limit, another case", nil, Need{"SMALL", 5}, "SMALL"},
		{"total", map[string]int{"big": 7, Cores: 7, VMs: 1}, Need{"small", 4}, Cores},
		{"count", map[string]int{"big": 2, Cores: 2, VMs: 2}, Need{"big", 2}, VMs},
	} {
		t.Run(r.name, func(t *testing.T) {
			u := Usage{Used: r.used}
			before := len(r.used)
			err := u.Take(l, r.need)
			var e *Exceeded
			if got := errors.As(err, &e); got != (r.refused != "") || got && e.Counter != r.refused {
				t.Fatalf("got %v, want %q", err, r.refused)
			}
			if err != nil {
				if len(u.Used) != before {
					t.Fatal("a refused request was counted")
				}
				return
			}
			u.Free(r.need)
			if u.Used[r.need.Family] != r.used[r.need.Family]-0 && r.used == nil {
				t.Fatalf("left after free: %v", u.Used)
			}
		})
	}
}
