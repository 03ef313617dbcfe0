package api

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"cloister.dev/cloister/keys/keystore"
)

const actions = "Microsoft.KeyVault/vaults/keys/"

var (
	nameForm    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	versionID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	uuidForm    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	gsNameForm  = regexp.MustCompile(`^gs-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	operationOf = map[string]string{"encrypt": "encrypt", "decrypt": "decrypt", "wrapkey": "wrap", "unwrapkey": "unwrap", "sign": "sign", "verify": "verify"}
)

// segments splits the path as it was sent. Empty segments stay: a key without a version is asked for as
// /keys/NAME//sign, and a router that cleans the path would redirect the POST away.
func segments(escaped string) ([]string, error) {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, p := range parts {
		s, err := url.PathUnescape(p)
		if err != nil || strings.ContainsAny(s, "/\\\x00") {
			return nil, badParameter("the path cannot be read")
		}
		parts[i] = s
	}
	return parts, nil
}

func (c *call) route() (int, any, error) {
	p, err := segments(c.req.URL.EscapedPath())
	if err != nil {
		return 0, nil, err
	}
	if status, body, err, found := c.routeAssignments(p); found {
		return status, body, err
	}
	for i := range min(len(p), 1) {
		p[i] = strings.ToLower(p[i])
	}
	// A final slash stands for "no version".
	for len(p) > 1 && p[len(p)-1] == "" {
		p = p[:len(p)-1]
	}
	switch p[0] {
	case "keys":
		return c.routeKeys(p[1:])
	case "deletedkeys":
		return c.routeDeleted(p[1:])
	case "gueststate":
		if len(p) == 3 && c.req.Method == http.MethodPost {
			switch p[2] {
			case "open":
				return c.do("gueststate.open", func() (any, error) { return c.openGuestState(p[1]) })
			case "confirm":
				return c.do("gueststate.confirm", func() (any, error) { return c.confirmGuestState(p[1]) })
			case "approve-restore":
				return c.do("gueststate.approve-restore", func() (any, error) { return c.approveRestore(p[1]) })
			case "rewrap":
				return c.do("gueststate.rewrap", func() (any, error) { return c.rewrapGuestState(p[1]) })
			}
		}
	case "rng":
		if len(p) == 1 && c.req.Method == http.MethodPost {
			return c.do("rng", c.random)
		}
	case "certificates":
		if len(p) == 2 && p[1] == "contacts" {
			return 0, nil, &failure{status: http.StatusNotFound, code: "ContactsNotFound", message: "Contacts not found."}
		}
	}
	return 0, nil, &failure{status: http.StatusNotFound, code: "NotFound", message: "There is nothing at this path for this method."}
}

func (c *call) do(operation string, f func() (any, error)) (int, any, error) {
	c.operation = operation
	body, err := f()
	return http.StatusOK, body, err
}

func (c *call) routeKeys(p []string) (int, any, error) {
	m := c.req.Method
	if len(p) == 0 {
		if m == http.MethodGet {
			return c.do("list", c.list)
		}
		return 0, nil, badParameter("only GET is possible here")
	}
	name := p[0]
	if !nameForm.MatchString(name) {
		return 0, nil, badParameter("a key's name has 1 to 127 letters, digits and hyphens")
	}
	second, third := "", ""
	if len(p) > 1 {
		second = p[1]
	}
	if len(p) > 2 {
		third = p[2]
	}
	switch {
	case len(p) > 3:
	case m == http.MethodGet && len(p) == 2 && second == "versions":
		return c.do("versions", func() (any, error) { return c.versions(name) })
	case m == http.MethodGet && len(p) == 2 && second == "rotationpolicy":
		return c.do("rotationpolicy.get", func() (any, error) { return c.getRotation(name) })
	case m == http.MethodPut && len(p) == 2 && second == "rotationpolicy":
		return c.do("rotationpolicy.set", func() (any, error) { return c.putRotation(name) })
	case m == http.MethodPut && len(p) == 1:
		return c.do("import", func() (any, error) { return c.importKey(name) })
	case m == http.MethodPost && len(p) == 2 && second == "backup":
		return c.do("backup", func() (any, error) { return c.backup(name) })
	case m == http.MethodPost && len(p) == 1 && name == "restore":
		return c.do("restore", c.restore)
	case m == http.MethodPost && len(p) == 2 && second == "create":
		return c.do("create", func() (any, error) { return c.create(name) })
	case m == http.MethodPost && len(p) == 2 && second == "rotate":
		return c.do("rotate", func() (any, error) { return c.rotate(name) })
	case m == http.MethodPost && len(p) == 2 && second == "release":
		return c.do("release", func() (any, error) { return c.release(name, "") })
	case m == http.MethodPost && len(p) == 2 && operationOf[second] != "":
		return c.do(second, func() (any, error) { return c.crypto(name, "", second) })
	case len(p) == 2 && second == "attestation", m == http.MethodPut:
		return 0, nil, badParameter("this operation is not offered by this key vault")
	case len(p) <= 2 && m == http.MethodDelete && second == "":
		return c.do("delete", func() (any, error) { return c.remove(name) })
	case second != "" && !versionID.MatchString(second):
		return 0, nil, badParameter("a key's version has 32 hex digits")
	case m == http.MethodGet && len(p) <= 2:
		return c.do("get", func() (any, error) { return c.get(name, second) })
	case m == http.MethodPatch && len(p) <= 2:
		return c.do("update", func() (any, error) { return c.update(name, second) })
	case m == http.MethodPost && len(p) == 3 && third == "release":
		return c.do("release", func() (any, error) { return c.release(name, second) })
	case m == http.MethodPost && len(p) == 3 && operationOf[third] != "":
		return c.do(third, func() (any, error) { return c.crypto(name, second, third) })
	}
	return 0, nil, &failure{status: http.StatusNotFound, code: "NotFound", message: "There is nothing at this path for this method."}
}

func (c *call) routeDeleted(p []string) (int, any, error) {
	m := c.req.Method
	if len(p) == 0 && m == http.MethodGet {
		return c.do("listdeleted", c.listDeleted)
	}
	if len(p) > 0 && !nameForm.MatchString(p[0]) {
		return 0, nil, badParameter("a key's name has 1 to 127 letters, digits and hyphens")
	}
	switch {
	case len(p) == 1 && m == http.MethodGet:
		return c.do("getdeleted", func() (any, error) { return c.getDeleted(p[0]) })
	case len(p) == 1 && m == http.MethodDelete:
		c.operation = "purge"
		return http.StatusNoContent, nil, c.purge(p[0])
	case len(p) == 2 && p[1] == "recover" && m == http.MethodPost:
		return c.do("recover", func() (any, error) { return c.recoverKey(p[0]) })
	}
	return 0, nil, &failure{status: http.StatusNotFound, code: "NotFound", message: "There is nothing at this path for this method."}
}

func (c *call) id(name string) keystore.ID { return keystore.ID{Vault: c.vault.ID(), Name: name} }
