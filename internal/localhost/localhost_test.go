package localhost

import "testing"

func TestIs(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "a.b.localhost": true, "A.LOCALHOST.": true,
		"localhost.example.com": false, "notlocalhost": false, "127.0.0.1": false, "": false} {
		if got := Is(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
