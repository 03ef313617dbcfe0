package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cloister.dev/cloister/host/api"
)

func source() Source {
	return Source{
		Spec: func() api.VMSpec {
			return api.VMSpec{VMID: "0e4a1b7c-0000-4000-8000-000000000001", Name: "web", Location: "local", SecureBoot: true, Tags: map[string]string{"a": "b"},
				TempDiskGiB: 75, DataDisks: []api.DataDisk{{LUN: 3, DiskID: "u", Disk: api.Disk{Name: "data", ID: "/d/data", SizeGiB: 8, StorageType: "Premium_LRS", Caching: "None"}}},
				NICs: []api.NIC{{MAC: "525400000001", PrivateIP: "10.0.0.4", Prefix: "10.0.0.0/24"}}}
		},
		Chain: func(context.Context) (*Chain, error) {
			return &Chain{VCEK: "leaf", Issuers: "chain", TCBM: "7308000000000003"}, nil
		},
		Identity: func(_ context.Context, audience string) (string, error) {
			if audience != "https://vault.azure.net" {
				return "", errors.New("unexpected audience " + audience)
			}
			return "token", nil
		},
		Event: func(api.Event) {},
		Request: func(ctx context.Context) (*api.Request, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Answer: func(_ context.Context, id string, _ json.RawMessage) error {
			if id != "1" {
				return errors.New("no such request")
			}
			return nil
		},
	}
}

func TestHandler(t *testing.T) {
	h := Handler(source(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	const v = "?api-version=2021-12-13"
	for _, r := range []struct {
		name, method, target, body string
		header                     http.Header
		status                     int
		has                        string
	}{
		{"the whole document", "GET", "/metadata/instance" + v, "", nil, 200, `"vmId":"0e4a1b7c-0000-4000-8000-000000000001"`},
		{"booleans are texts", "GET", "/metadata/instance/compute/securityProfile" + v, "", nil, 200, `"secureBootEnabled":"true"`},
		{"a part", "GET", "/metadata/instance/network" + v, "", nil, 200, `"macAddress":"525400000001"`},
		{"a data disk", "GET", "/metadata/instance/compute/storageProfile/dataDisks/0/managedDisk" + v, "", nil, 200, `{"id":"/d/data","storageAccountType":"Premium_LRS"}`},
		{"its LUN is a text", "GET", "/metadata/instance/compute/storageProfile/dataDisks/0" + v, "", nil, 200, `"diskSizeGB":"8","image":{"uri":""},"isSharedDisk":"false","isUltraDisk":"false","lun":"3"`},
		{"the temporary disk, in KiB", "GET", "/metadata/instance/compute/storageProfile/resourceDisk/size" + v + "&format=text", "", nil, 200, "78643200"},
		{"a leaf as text", "GET", "/metadata/instance/compute/name" + v + "&format=text", "", nil, 200, "web"},
		{"into a list", "GET", "/metadata/instance/network/interface/0/macAddress" + v + "&format=text", "", nil, 200, "525400000001"},
		{"versions need no version", "GET", "/metadata/versions", "", nil, 200, "2021-12-13"},
		{"endorsements need no version", "GET", "/metadata/THIM/amd/certification", "", nil, 200, `"tcbm":"7308000000000003"`},
		{"an identity token", "GET", "/metadata/identity/oauth2/token" + v + "&resource=https%3A%2F%2Fvault.azure.net", "", nil, 200, `"access_token":"token"`},
		{"no request is open", "GET", "/cloister/v1/requests?wait=0", "", nil, 204, ""},
		{"an event", "POST", "/cloister/v1/events", `{"step":"distribution","state":"done"}`, nil, 204, ""},
		{"an answer", "POST", "/cloister/v1/requests/1", `{}`, nil, 204, ""},

		{"no header", "GET", "/metadata/instance" + v, "", http.Header{"Metadata": nil}, 400, "Required metadata header"},
		{"another header value", "GET", "/metadata/instance" + v, "", http.Header{"Metadata": {"1"}}, 400, "Required metadata header"},
		{"SVC-30 a forwarded request", "GET", "/metadata/instance" + v, "", http.Header{"X-Forwarded-For": {"10.0.0.1"}}, 400, "Forwarded"},
		{"no api-version", "GET", "/metadata/instance", "", nil, 400, "newest-versions"},
		{"an unknown api-version", "GET", "/metadata/instance?api-version=2050-01-01", "", nil, 400, "newest-versions"},
		{"a parameter twice", "GET", "/metadata/instance" + v + "&api-version=2021-12-13", "", nil, 400, "twice"},
		{"a leaf without format", "GET", "/metadata/instance/compute/name" + v, "", nil, 400, "format=text"},
		{"an unknown part", "GET", "/metadata/instance/compute/nothing" + v, "", nil, 404, ""},
		{"beyond a list", "GET", "/metadata/instance/network/interface/1" + v, "", nil, 404, ""},
		{"not GET", "PUT", "/metadata/instance" + v, "", nil, 405, ""},
		{"an identity token for nothing", "GET", "/metadata/identity/oauth2/token" + v, "", nil, 400, "invalid_request"},
		{"SVC-12 dots in a path", "GET", "/metadata/instance/../../etc" + v, "", nil, 404, ""},
		{"an event that is no JSON", "POST", "/cloister/v1/events", "x", nil, 400, ""},
		{"an event without a step", "POST", "/cloister/v1/events", "{}", nil, 400, ""},
		{"SVC-11 an endless event", "POST", "/cloister/v1/events", `{"step":"` + strings.Repeat("x", maxEvent) + `"}`, nil, 400, ""},
		{"an answer to nothing", "POST", "/cloister/v1/requests/2", `{}`, nil, 404, ""},
		{"an answer that is no JSON", "POST", "/cloister/v1/requests/1", `{`, nil, 400, ""},
		{"a wait of a day", "GET", "/cloister/v1/requests?wait=86400", "", nil, 400, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			req := httptest.NewRequest(r.method, r.target, strings.NewReader(r.body))
			req.Header.Set("Metadata", "true")
			for k, values := range r.header {
				req.Header.Del(k)
				for _, value := range values {
					req.Header.Add(k, value)
				}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			status := w.Code
			if status == http.StatusMovedPermanently || status == http.StatusTemporaryRedirect {
				status = http.StatusNotFound // the mux cleans the path; what it redirects to is not found either
			}
			if status != r.status || !strings.Contains(w.Body.String(), r.has) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}
