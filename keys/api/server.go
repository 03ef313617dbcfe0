// Package api is the key keeper's HTTP interface: Azure Key Vault's keys data plane, key release, and the guest-state
// calls of this project.
//
// Each request passes the same gates in the same order: a vault by host name, a caller by sign-in token, a
// body within bounds, an id of the one known form, a role, and only then whether the key exists. So a caller
// without a role gets the same answer for a key that exists and one that does not.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/ratelimit"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/release"
	"cloister.dev/cloister/keys/vaults"
)

// maxBody bounds a request's body, in bytes: the largest holds one attestation token.
const maxBody = token.MaxSize + 64<<10

// Auditor writes an entry durably before it returns nil.
type Auditor interface{ Write(audit.Entry) error }

// Options are what the interface works with.
type Options struct {
	Backend     keystore.Backend
	Identity    *identity.Verifier
	Roles       roles.List
	Authorities []token.Authority // the verifiers whose tokens count
	Audit       Auditor
	Signer      *release.Signer
	Vaults      []vaults.Vault     // of the configuration; a vault is served as NAME.Suffix
	Tenants     *identity.Verifier // of the tokens that a control plane passes on; nil: there are no vaults but those of the configuration
	Suffix      string
	SignIn      string   // https://HOST/TENANT, where clients are sent to sign in
	Operators   []string // object ids whose release policies are marked operator-trusted
	Requests    int      // of a caller in ten seconds
	Now         func() time.Time
	Log         *slog.Logger
	Registry    prometheus.Registerer
}

// Server answers requests.
type Server struct {
	Options
	limiter  *ratelimit.Limiter[string]
	requests *prometheus.CounterVec
	releases *prometheus.CounterVec
}

// New makes a server. It refuses to be one that trusts no verifier.
func New(o Options) (*Server, error) {
	if len(o.Authorities) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "authorities", "none", "at least one verifier with a pinned key")
	}
	if o.Backend == nil || o.Identity == nil || o.Audit == nil || o.Signer == nil || o.Now == nil || o.Log == nil || o.Registry == nil {
		return nil, errors.New("keys api: backend, identity, audit, signer, clock, log and registry are all needed")
	}
	if o.Requests < 1 {
		return nil, evidence.Refuse(evidence.CodePolicy, "requests in ten seconds", fmt.Sprint(o.Requests), "at least one")
	}
	s := &Server{Options: o, limiter: newLimiter(o.Requests),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cloister_keys_requests_total", Help: "Requests by operation and status."}, []string{"operation", "status"}),
		releases: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cloister_keys_decisions_total", Help: "Releases, opens and confirmations by outcome."}, []string{"event", "outcome"}),
	}
	for _, c := range []prometheus.Collector{s.requests, s.releases} {
		if err := o.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return s, nil
}

// call is one request after the gates that are common to all.
type call struct {
	*Server
	req       *http.Request
	vault     vaults.Vault
	base      string // https://HOST[:PORT] as the client wrote it: key ids repeat it
	port      string // ":PORT" as the client wrote it, or nothing
	caller    *identity.Principal
	version   string // api-version
	body      []byte
	requestID string
	operation string // for metrics
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Server: s, req: r, requestID: uuid.NewString(), operation: "other"}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "-1")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("x-ms-keyvault-region", "local")
	h.Set("x-ms-keyvault-service-version", "1.0")
	h.Set("x-ms-request-id", c.requestID)
	if id := r.Header.Get("x-ms-client-request-id"); requestIDForm.MatchString(id) {
		h.Set("x-ms-client-request-id", id)
	}
	status, body, err := c.handle(w, r)
	if err != nil {
		status, body = c.failure(err)
	}
	s.requests.WithLabelValues(c.operation, fmt.Sprint(status)).Inc()
	c.write(w, status, body)
}

var requestIDForm = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

func (c *call) handle(w http.ResponseWriter, r *http.Request) (int, any, error) {
	name, err := c.hostName(r.Host)
	if err != nil {
		return 0, nil, err
	}
	if name == "" {
		return c.manage(w, r)
	}
	if err := c.findVault(name); err != nil {
		return 0, nil, err
	}
	if err := c.authenticate(w, r); err != nil {
		return 0, nil, err
	}
	if err := c.ofTenant(w); err != nil {
		return 0, nil, err
	}
	if c.version, err = apiVersion(r.URL.RawQuery); err != nil {
		return 0, nil, err
	}
	if err := c.readBody(w, r); err != nil {
		return 0, nil, err
	}
	return c.route()
}

// hostName reads the name of a vault from the host name, or "" from the bare suffix. No other header says anything about it.
func (c *call) hostName(host string) (string, error) {
	name := host
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, c.port = h, ":"+p
	}
	if !hostForm.MatchString(name + c.port) {
		return "", &failure{status: http.StatusBadRequest, code: "BadParameter", message: "The Host header is not a vault's name."}
	}
	c.base = "https://" + name + c.port
	if strings.EqualFold(name, c.Suffix) {
		return "", nil
	}
	label, suffix, _ := strings.Cut(name, ".")
	if !strings.EqualFold(suffix, c.Suffix) {
		return "", noVault()
	}
	return label, nil
}

func noVault() error {
	return &failure{status: http.StatusNotFound, code: "VaultNotFound", message: "No vault is served under this host name."}
}

func (c *call) findVault(name string) error {
	v, err := c.vaultNamed(c.req.Context(), name)
	if err != nil {
		return err
	}
	if v == nil || !v.Live() {
		return noVault()
	}
	c.vault = *v
	return nil
}

// baseOf is the URL of a vault, with the port that the client used and without a final slash.
func (c *call) baseOf(vault string) string { return "https://" + vault + "." + c.Suffix + c.port }

func (c *call) authenticate(w http.ResponseWriter, r *http.Request) (err error) {
	if c.caller, err = c.Identity.FromRequest(r, c.Now()); err != nil {
		c.challenge(w)
		return &failure{status: http.StatusUnauthorized, code: "Unauthorized", message: "AKV10000: Request is missing a Bearer or PoP token, or it is not valid.", cause: err}
	}
	return c.throttle(w)
}

// ofTenant keeps callers of other tenants from a vault, whatever roles somebody gave them. The identity of a VM may be of
// another tenant than a vault that its owner runs: it opens its own guest state, for which it proves itself, and nothing
// else.
func (c *call) ofTenant(w http.ResponseWriter) error {
	if c.caller.Kind == identity.KindVM || c.caller.TenantID == c.vault.Tenant {
		return nil
	}
	c.challenge(w)
	return &failure{status: http.StatusUnauthorized, code: "Unauthorized", message: "AKV10032: Invalid issuer. Expected one of https://sts.windows.net/" + c.vault.Tenant + "/, found https://sts.windows.net/" + c.caller.TenantID + "/.",
		cause: evidence.Refuse(evidence.CodeAuthz, "token tid", c.caller.TenantID, c.vault.Tenant)}
}

var hostForm = regexp.MustCompile(`^[0-9A-Za-z.-]{1,253}(:[0-9]{1,5})?$`)

// challenge tells a client where to sign in and for which audience. Azure's clients split it at blanks and
// equals signs, and compare the resource, with the port, with the host they called.
func (c *call) challenge(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="%s", resource="https://%s%s"`, c.SignIn, c.Suffix, c.port))
}

var versionForm = regexp.MustCompile(`^(7\.[0-9]{1,2}|20[0-9]{2}-[0-9]{2}-[0-9]{2})(-preview(\.[0-9]{1,2})?)?$`)

// apiVersion checks the form and a floor, since clients bring versions that do not exist yet. Some escape the parameter's name.
func apiVersion(rawQuery string) (string, error) {
	q, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", badParameter("the query cannot be read")
	}
	all := q["api-version"]
	if len(all) != 1 || !versionForm.MatchString(all[0]) || all[0] < "2025" && all[0] >= "20" {
		return "", badParameter("api-version must be given once, as 7.x or a date")
	}
	if strings.HasPrefix(all[0], "7.0") || strings.HasPrefix(all[0], "7.1-") || all[0] == "7.1" {
		return "", badParameter("api-version must be 7.2 or later")
	}
	return all[0], nil
}

func (c *call) readBody(w http.ResponseWriter, r *http.Request) error {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return &failure{status: http.StatusUnsupportedMediaType, code: "BadParameter", message: "Content-Encoding is not taken."}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &failure{status: http.StatusRequestEntityTooLarge, code: "BadParameter", message: fmt.Sprintf("The body is larger than %d bytes.", maxBody)}
	case err != nil:
		return badParameter("the body cannot be read")
	}
	c.body = body
	return nil
}

func (c *call) write(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	raw, err := json.Marshal(body)
	if err != nil {
		c.Log.Error("answer cannot be written", "requestId", c.requestID, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if _, err := w.Write(raw); err != nil {
		c.Log.Debug("client went away", "requestId", c.requestID, "error", err)
	}
}
