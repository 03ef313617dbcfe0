package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/evidence/initdata"
)

const id = "b6c98c3b-4ec7-4da6-bd2f-7d98d20d7b75"

func TestDestroy(t *testing.T) {
	for _, r := range []struct {
		name          string
		remove, purge int // statuses
		foreign       bool
		want          string // "" is an error
		calls         int
	}{
		{"destroyed", 200, 204, false, "destroyed", 2},
		{"the tenant was faster", 404, 404, false, "gone already", 2},
		{"the tenant was faster and keeps the purge", 404, 403, false, "gone already", 2},
		{"a crash came before the purge", 404, 204, false, "destroyed", 2},
		{"no role", 403, 0, false, "left to the tenant: compute has no role on the key", 1},
		{"may delete, may not purge", 200, 403, false, "deleted; only the tenant may purge it", 2},
		{"a crash came between", 200, 404, false, "destroyed", 2},
		{"another vault never sees compute's token", 200, 204, true, "left to the tenant: the key lies in another vault", 0},
		{"the vault fails", 503, 0, false, "", 1},
		{"the token is refused", 401, 0, false, "", 1},
		{"the purge fails", 200, 500, false, "", 2},
	} {
		t.Run(r.name, func(t *testing.T) {
			calls := 0
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				calls++
				if q.Method != http.MethodDelete || q.Header.Get("Authorization") != "Bearer t" {
					t.Errorf("%s %s %v", q.Method, q.URL, q.Header)
				}
				switch q.URL.Path {
				case "/keys/gs-" + id:
					w.WriteHeader(r.remove)
				case "/deletedkeys/gs-" + id:
					w.WriteHeader(r.purge)
				default:
					t.Errorf("path %s", q.URL.Path)
				}
			}))
			defer s.Close()
			url := s.URL
			if r.foreign {
				url = "https://other.test"
			}
			pins := []initdata.SigningKey{{KID: "k", PEM: "p"}}
			raw, err := initdata.Marshal(initdata.InitData{VMID: id, Name: "web", OSDiskEncryption: "DiskWithVMGuestState",
				Attest: initdata.Service{URL: "https://a.test", SigningKeys: pins}, Keys: initdata.Service{URL: url, SigningKeys: pins}})
			if err != nil {
				t.Fatal(err)
			}
			d := &Destroyer{Vault: s.URL, HTTP: s.Client(), Bearer: func(context.Context) (string, error) { return "t", nil }}
			got, err := d.Destroy(t.Context(), vm.VM{VMID: id, InitData: raw})
			if got != r.want || (err == nil) != (r.want != "") || calls != r.calls {
				t.Fatalf("got %q, %v after %d calls; want %q after %d", got, err, calls, r.want, r.calls)
			}
		})
	}
	d := &Destroyer{Bearer: func(context.Context) (string, error) { return "", fmt.Errorf("no sign-in") }}
	if _, err := d.Destroy(t.Context(), vm.VM{VMID: id, InitData: []byte("{}")}); err == nil {
		t.Error("broken init data accepted")
	}
}
