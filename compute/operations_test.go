package compute_test

import (
	"strings"
	"testing"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
)

// An operation is polled by who may read what it works on, at whatever scope the role was given; to others it is not there.
func TestWhoMayPollAnOperation(t *testing.T) {
	inGroup, reader, elsewhere := identitytest.OtherIDs[0], identitytest.OtherIDs[1], identitytest.OtherIDs[2]
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.Roles = append(c.Roles, roles.Assignment{PrincipalID: inGroup, Role: "Contributor", Scope: group}, roles.Assignment{PrincipalID: reader, Role: "Reader", Scope: webURL},
			roles.Assignment{PrincipalID: elsewhere, Role: "Owner", Scope: strings.Replace(group, "/g", "/other", 1)})
	})
	e.join(8)
	_, _, h := e.call("PUT", webURL, e.body(e.nic("n")), e.as(inGroup))
	url := h.Get("Azure-AsyncOperation")
	if url == "" {
		t.Fatal("no operation")
	}
	path := strings.TrimPrefix(url, e.arm.URL)
	for _, r := range []struct {
		name, caller string
		status       int
	}{
		{"who asked, with a role on the group", inGroup, 200},
		{"a reader of the VM", reader, 200},
		{"the subscription's contributor", identitytest.AdminID, 200},
		{"SVC-13 the owner of another group", elsewhere, 404},
	} {
		for _, p := range []string{path, path + "&monitor=true"} {
			status, out, _ := e.call("GET", p, "", e.as(r.caller))
			if (status == 404) != (r.status == 404) || status >= 400 && status != r.status {
				t.Errorf("%s: %d %v, want %d", r.name, status, out, r.status)
			}
		}
	}
	if state, out := e.wait(h); state != "Succeeded" {
		t.Error(state, out)
	}
}
