package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/store"
)

// Request is a call whose path, version and caller have been checked.
type Request struct {
	HTTP      *http.Request
	Query     url.Values // names and values decoded; never repeated
	Version   string     // api-version as asked
	Principal *identity.Principal
	Body      []byte
	vars      map[string]string
	kind      string // resource type, for ID
}

// Var is the part of the path that the route's pattern names in braces, in the case that came.
func (r *Request) Var(name string) string { return r.vars[name] }

// ID is the id of the resource that the route's pattern names: its {name}, after its {parent} if it has one.
func (r *Request) ID() ID {
	id := ID{Subscription: r.vars["sub"], Group: r.vars["group"], Type: r.kind, Name: r.vars["name"]}
	if p := r.vars["parent"]; p != "" {
		id.Name = p + "/" + id.Name
	}
	return id
}

// Response is an answer. Body nil means none.
type Response struct {
	Status int
	Header http.Header
	Body   any
	Raw    []byte // instead of Body: bytes that are no JSON
}

// OK is the plain answer.
func OK(body any) *Response { return &Response{Status: http.StatusOK, Body: body} }

// NoContent is the answer to a DELETE of what is gone, or to a HEAD.
func NoContent() *Response { return &Response{Status: http.StatusNoContent} }

// Page is the body of a list.
func Page[T any](items []T) any {
	if items == nil {
		items = []T{}
	}
	return map[string]any{"value": items}
}

// Handler does one call.
type Handler func(context.Context, *Request) (*Response, error)

// Route binds a method and a path to a handler. The pattern's literal parts have no case. {sub}, {group},
// {name} and {parent} are checked names; other variables too, as names.
type Route struct {
	Method  string
	Pattern string
	Action  string // what the caller needs a role for; "" means: any caller with a valid token
	Public  bool   // no token, no api-version
	Handle  Handler
}

// Router serves the routes.
type Router struct {
	Routes       []Route
	Authenticate func(*http.Request, time.Time) (*identity.Principal, error)
	Authorize    func(p *identity.Principal, action, scope string) error
	Subscription func(string) bool // whether the installation has it
	Limits       *Limiter          // nil: calls are not counted
	Now          func() time.Time
	Log          *slog.Logger
	Challenge    string // authorization_uri of a 401: the authority with the tenant
	Observe      func(route string, status int, took time.Duration)
}

var versionForm = regexp.MustCompile(`^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-[a-zA-Z]+)?$`)

// oldest is the floor of api-versions: az's templates still use it for network interfaces.
const oldest = "2014-04-01"

func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := rt.Now()
	requestID := uuid.NewString()
	h := w.Header()
	h.Set("x-ms-request-id", requestID)
	h.Set("x-ms-correlation-request-id", requestID)
	h.Set("Cache-Control", "no-cache")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	if id := r.Header.Get("x-ms-client-request-id"); len(id) <= 64 && strings.EqualFold(r.Header.Get("x-ms-return-client-request-id"), "true") {
		h.Set("x-ms-client-request-id", id)
	}
	route, resp, err := rt.serve(r, h)
	if err != nil {
		resp = rt.refusal(h, err, requestID)
	}
	for k, v := range resp.Header {
		h[k] = v
	}
	rt.write(w, r, resp)
	if rt.Observe != nil {
		rt.Observe(r.Method+" "+route, resp.Status, rt.Now().Sub(begin))
	}
}

func (rt *Router) write(w http.ResponseWriter, r *http.Request, resp *Response) {
	raw := resp.Raw
	if raw == nil && resp.Body != nil {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		var err error
		if raw, err = json.Marshal(resp.Body); err != nil {
			rt.Log.Error("encoding an answer", "path", r.URL.Path, "error", err)
			resp.Status, raw = http.StatusInternalServerError, []byte(`{"error":{"code":"InternalServerError","message":"The answer could not be encoded."}}`)
		}
	}
	w.WriteHeader(resp.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(raw) // the client has gone: nobody to tell
	}
}

// refusal turns an error into an answer.
func (rt *Router) refusal(h http.Header, err error, requestID string) *Response {
	e := rt.explain(err, requestID)
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization_uri="%s", error="invalid_token", error_description="%s"`, rt.Challenge, strings.NewReplacer(`"`, "'", "\n", " ").Replace(e.Message)))
	}
	h.Set("x-ms-error-code", e.Code)
	return &Response{Status: e.Status, Body: map[string]any{"error": e}}
}

// explain turns an error into Resource Manager's form, and logs what is not the caller's fault.
func (rt *Router) explain(err error, requestID string) *Error {
	if e := AsError(err); e != nil {
		return e
	}
	if errors.Is(err, store.ErrConflict) {
		return Errorf(http.StatusConflict, AnotherOperation, "The resource was changed by another request at the same time. Try again.")
	}
	if ref := new(evidence.Refusal); errors.As(err, &ref) {
		return Errorf(http.StatusBadRequest, "InvalidParameter", "%s", ref.Error()).At(ref.Field)
	}
	rt.Log.Error("request failed", "request", requestID, "error", err)
	return Errorf(http.StatusInternalServerError, "InternalServerError", "An internal error occurred. The request's id is %s.", requestID)
}

// AnotherOperation is the code of a refusal that passes when the request is repeated.
const AnotherOperation = "AnotherOperationInProgress"

// serve also sets the headers that tell what is left of the caller's rate.
func (rt *Router) serve(r *http.Request, h http.Header) (string, *Response, error) {
	path, err := splitPath(r.URL)
	if err != nil {
		return "", nil, err
	}
	route, vars, methods := rt.find(r.Method, path)
	if route != nil && route.Public {
		resp, err := route.Handle(r.Context(), &Request{HTTP: r, vars: vars, Query: r.URL.Query()})
		return route.Pattern, resp, err
	}
	p, err := rt.Authenticate(r, rt.Now())
	if err != nil {
		code := "InvalidAuthenticationToken"
		if r.Header.Get("Authorization") == "" {
			code = "AuthenticationFailed"
		}
		return "", nil, Errorf(http.StatusUnauthorized, code, "Authentication failed: %s", err)
	}
	if rt.Limits != nil {
		left, err := rt.Limits.Take(p.ObjectID, r.Method, rt.Now())
		maps.Copy(h, left)
		if err != nil {
			return "", nil, err
		}
	}
	if route == nil {
		return "", nil, rt.missing(r, path, methods)
	}
	resp, err := rt.dispatch(r, route, vars, p)
	return route.Pattern, resp, err
}

// dispatch serves a call whose caller is known.
func (rt *Router) dispatch(r *http.Request, route *Route, vars map[string]string, p *identity.Principal) (*Response, error) {
	query, err := readQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	req := &Request{HTTP: r, Query: query, Version: query.Get("api-version"), Principal: p, vars: vars, kind: typeOf(route.Pattern)}
	if err := rt.admit(req, route); err != nil {
		return nil, err
	}
	if req.Body, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBody)); err != nil {
		return nil, Errorf(http.StatusBadRequest, "InvalidRequestContent", "The request body could not be read: %s (at most %d bytes).", err, MaxBody)
	}
	return route.Handle(r.Context(), req)
}

// admit checks everything but the body.
func (rt *Router) admit(req *Request, route *Route) error {
	if err := checkVersion(req.Version); err != nil {
		return err
	}
	if err := rt.checkVars(req.vars); err != nil {
		return err
	}
	if route.Action != "" {
		scope := scopeOf(route.Pattern, req.vars)
		if err := rt.Authorize(req.Principal, route.Action, scope); err != nil {
			return Forbidden(req.Principal, route.Action, scope)
		}
	}
	if sub := req.vars["sub"]; sub != "" && !rt.Subscription(sub) {
		return Errorf(http.StatusNotFound, "SubscriptionNotFound", "The subscription '%s' could not be found.", sub)
	}
	return nil
}

// Do makes a call for a caller who has proved who it is, with that caller's rights and no others. It takes the same path
// as a call from outside, except that it is not counted by Limits: the call that led to it was.
func (rt *Router) Do(ctx context.Context, p *identity.Principal, method, path, version string, body []byte) (*Response, *Error) {
	begin, requestID := rt.Now(), uuid.NewString()
	r, route, vars, err := rt.inner(ctx, method, path, version, body)
	var resp *Response
	if err == nil {
		resp, err = rt.dispatch(r, route, vars, p)
	}
	status, name := 0, ""
	var e *Error
	if err != nil {
		e = rt.explain(err, requestID)
		status = e.Status
	} else {
		status = resp.Status
	}
	if route != nil {
		name = route.Pattern
	}
	if rt.Observe != nil {
		rt.Observe(method+" "+name, status, rt.Now().Sub(begin))
	}
	return resp, e
}

// Check tells whether Do would reach its handler.
func (rt *Router) Check(ctx context.Context, p *identity.Principal, method, path, version string) error {
	r, route, vars, err := rt.inner(ctx, method, path, version, nil)
	if err != nil {
		return err
	}
	return rt.admit(&Request{HTTP: r, Version: version, Principal: p, vars: vars}, route)
}

func (rt *Router) inner(ctx context.Context, method, path, version string, body []byte) (*http.Request, *Route, map[string]string, error) {
	u := &url.URL{Path: path, RawQuery: url.Values{"api-version": {version}}.Encode()}
	parts, err := splitPath(u)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, nil, err
	}
	route, vars, methods := rt.find(method, parts)
	if route == nil {
		return nil, nil, nil, rt.missing(r, parts, methods)
	}
	return r, route, vars, nil
}

// Forbidden is the answer to a caller without the right.
func Forbidden(p *identity.Principal, action, scope string) *Error {
	return Errorf(http.StatusForbidden, "AuthorizationFailed",
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		p.ClientID, p.ObjectID, action, scope)
}

func checkVersion(v string) error {
	switch {
	case v == "":
		return Errorf(http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	case !versionForm.MatchString(v) || v < oldest:
		return Errorf(http.StatusBadRequest, "InvalidApiVersionParameter", "The api-version '%s' is invalid: want a date such as 2025-04-01, not before %s.", v, oldest).At("api-version")
	}
	return nil
}

func (rt *Router) checkVars(vars map[string]string) error {
	for name, v := range vars {
		var err error
		switch name {
		case "sub":
			err = checkGUID("SubscriptionId", v)
		case "group":
			err = checkGroup(v)
		case "location":
			err = CheckName(Location(v)) // display names have blanks
		default:
			err = CheckName(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// splitPath reads a path's segments. Encoded slashes and dot segments never get past here.
func splitPath(u *url.URL) ([]string, error) {
	bad := Errorf(http.StatusBadRequest, "InvalidRequestUri", "The request path is invalid: dot segments, backslashes, control characters and over-long segments are refused.")
	var out []string
	for _, seg := range strings.Split(u.EscapedPath(), "/") {
		s, err := url.PathUnescape(seg)
		if err != nil || s == "." || s == ".." || strings.ContainsAny(s, "/\\\x00") || len(s) > 260 {
			return nil, bad
		}
		for _, c := range s {
			if c < 0x20 || c == 0x7f {
				return nil, bad
			}
		}
		if s != "" { // empty and final slashes are real
			out = append(out, s)
		}
	}
	return out, nil
}

// readQuery decodes names as well as values (clients write api%2Dversion) and refuses repetitions.
func readQuery(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Errorf(http.StatusBadRequest, "InvalidRequestUri", "The query string is malformed.")
	}
	out := url.Values{}
	for name, v := range q {
		fold := strings.ToLower(name)
		if len(v) > 1 || out.Has(fold) {
			return nil, Errorf(http.StatusBadRequest, "InvalidQueryParameter", "Query parameter %q comes more than once.", name).At(name)
		}
		out[fold] = v
	}
	return out, nil
}

func (rt *Router) find(method string, path []string) (*Route, map[string]string, []string) {
	var methods []string
	for i := range rt.Routes {
		route := &rt.Routes[i]
		vars, ok := match(route.Pattern, path)
		if !ok {
			continue
		}
		if route.Method == method {
			return route, vars, nil
		}
		methods = append(methods, route.Method)
	}
	return nil, nil, methods
}

func match(pattern string, path []string) (map[string]string, bool) {
	want := strings.Split(strings.Trim(pattern, "/"), "/")
	if len(want) != len(path) {
		return nil, false
	}
	vars := map[string]string{}
	for i, w := range want {
		if strings.HasPrefix(w, "{") {
			vars[strings.Trim(w, "{}")] = path[i]
		} else if !strings.EqualFold(w, path[i]) {
			return nil, false
		}
	}
	return vars, true
}

// missing explains a path that no route has.
func (rt *Router) missing(r *http.Request, path, methods []string) error {
	if len(methods) > 0 {
		return Errorf(http.StatusMethodNotAllowed, "MethodNotAllowed", "The method %s is not allowed here; allowed: %s.", r.Method, strings.Join(methods, ", "))
	}
	for i, seg := range path {
		if !strings.EqualFold(seg, "providers") || i+1 >= len(path) {
			continue
		}
		ns := path[i+1]
		if !rt.serves(ns) {
			return Errorf(http.StatusNotFound, "InvalidResourceNamespace", "The resource namespace '%s' is invalid.", ns)
		}
		if i+2 < len(path) {
			return Errorf(http.StatusNotFound, "InvalidResourceType", "The resource type '%s' could not be found in the namespace '%s'.", strings.Join(path[i+2:], "/"), ns)
		}
	}
	return Errorf(http.StatusNotFound, "NotFound", "No resource lies at this path.")
}

func (rt *Router) serves(namespace string) bool {
	for _, r := range rt.Routes {
		if strings.Contains(strings.ToLower(r.Pattern), "/providers/"+strings.ToLower(namespace)+"/") {
			return true
		}
	}
	return false
}

// typeOf is the resource type in a pattern: Microsoft.Compute/virtualMachines.
func typeOf(pattern string) string {
	_, rest, ok := strings.Cut(pattern, "/providers/")
	if !ok {
		return ""
	}
	parts := strings.Split(rest, "/")
	kind := parts[0]
	for i := 1; i < len(parts); i += 2 {
		if i == 1 || i+1 < len(parts) || strings.HasSuffix(pattern, "}") {
			kind += "/" + parts[i]
		}
	}
	return kind
}

// scopeOf is the path up to the resource, with the action cut off.
func scopeOf(pattern string, vars map[string]string) string {
	parts := strings.Split(strings.Trim(pattern, "/"), "/")
	out := ""
	for _, p := range parts {
		if strings.HasPrefix(p, "{") {
			p = vars[strings.Trim(p, "{}")]
		}
		out += "/" + p
	}
	return out
}
