//go:build boot

package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// clientEnv reads client.env.
func (s *system) clientEnv() map[string]string {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.state, "client.env"))
	if err != nil {
		s.t.Fatal(err)
	}
	env := map[string]string{}
	for _, line := range strings.Split(string(raw), "\n") {
		if name, value, ok := strings.Cut(line, "="); ok {
			env[name] = value
		}
	}
	return env
}

// usage asks Azure's API how much of a quota is used.
func (s *system) usage(kind string) int {
	s.t.Helper()
	env := s.clientEnv()
	ca, err := os.ReadFile(env["CA_FILE"])
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true}}

	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {env["CLIENT_ID"]}, "client_secret": {env["CLIENT_SECRET"]}, "scope": {"https://management.azure.com/.default"}}
	resp, err := client.PostForm(strings.TrimSuffix(env["AUTHORITY_HOST"], "/")+"/"+env["TENANT_ID"]+"/oauth2/v2.0/token", form)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	s.decode(resp, err, &token)

	req, err := http.NewRequest(http.MethodGet, strings.TrimSuffix(env["ARM_ENDPOINT"], "/")+"/subscriptions/"+env["SUBSCRIPTION_ID"]+
		"/providers/Microsoft.Compute/locations/"+env["LOCATION"]+"/usages?api-version=2024-07-01", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.AccessToken)
	resp, err = client.Do(req)
	var list struct {
		Value []struct {
			Name         struct{ Value string }
			CurrentValue int
		}
	}
	s.decode(resp, err, &list)
	for _, u := range list.Value {
		if u.Name.Value == kind {
			return u.CurrentValue
		}
	}
	s.t.Fatalf("no usage %q in %+v", kind, list)
	return 0
}

func (s *system) decode(resp *http.Response, err error, to any) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s", resp.Request.URL, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		s.t.Fatal(err)
	}
}
