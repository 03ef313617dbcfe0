package collateral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
)

// service is one address that is asked, with its pace.
type service struct {
	name     string
	base     *url.URL
	interval time.Duration

	mu   sync.Mutex
	next time.Time // when the next request may go out
}

// turn reserves the next time at which a request may go out, unless that is too far off.
func (s *service) turn(now time.Time, patience time.Duration) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.next
	if at.Before(now) {
		at = now
	}
	if d := at.Sub(now); d > patience {
		return 0, down(s.name, fmt.Sprintf("its next turn is in %s", d.Round(time.Second)), fmt.Sprintf("within %s: it takes a request per %s", patience, s.interval))
	}
	s.next = at.Add(s.interval)
	return at.Sub(now), nil
}

// hold stops requests until a time that the service named.
func (s *service) hold(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(s.next) {
		s.next = until
	}
}

// down is an "unavailable" that names the service.
func down(name, got, want string) error {
	return evidence.Refuse(evidence.CodeUnavailable, name, got, want)
}

// errMissing marks a service's answer that there is no such thing.
var errMissing = errors.New("the service has none")

// request says where an endorsement is to be had.
type request struct {
	service *service
	url     *url.URL
	header  string // that holds the issuers, URL-escaped PEM; empty: none
}

// request builds an address from the configured base and from the parts of an id, which have fixed forms.
func (c *Cache) request(id ID) (request, error) {
	at := func(s *service, header string, query url.Values, path ...string) (request, error) {
		if s == nil {
			return request{}, down(id.String(), "not in the folder", "an endorsement; nobody may be asked for it")
		}
		u := s.base.JoinPath(path...)
		u.RawQuery = query.Encode()
		return request{s, u, header}, nil
	}
	q := func(pairs ...string) url.Values {
		v := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	switch id.Kind() {
	case KindVCEK:
		spl, err := levels(sevsnp.Product(id.part(1)), id.part(3))
		if err != nil {
			return request{}, err
		}
		return at(c.amd, "", spl, "vcek", "v1", id.part(1), id.part(2))
	case KindAuthorities:
		return at(c.amd, "", nil, id.part(2), "v1", id.part(1), "cert_chain")
	case KindCRL:
		return at(c.amd, "", nil, id.part(2), "v1", id.part(1), "crl")
	case KindTCB:
		return at(c.intel, "TCB-Info-Issuer-Chain", q("fmspc", id.part(2)), id.part(1), "certification", "v4", "tcb")
	case KindQE:
		return at(c.intel, "SGX-Enclave-Identity-Issuer-Chain", nil, id.part(1), "certification", "v4", "qe", "identity")
	case KindPCKCRL:
		return at(c.intel, "SGX-PCK-CRL-Issuer-Chain", q("ca", id.part(1), "encoding", "der"), "sgx", "certification", "v4", "pckcrl")
	case KindRootCRL:
		return at(c.intelCertificates, "", nil, "IntelSGXRootCA.der")
	case KindVLEK:
		return request{}, down(id.String(), "not in the folder", "a VLEK from the cloud provider: AMD gives it to nobody else")
	}
	return request{}, evidence.Refuse(evidence.CodeParse, "endorsement", id.String(), "a known kind")
}

// levels turns a TCB of 16 hex digits, microcode first, into the query of AMD's service.
func levels(p sevsnp.Product, tcb string) (url.Values, error) {
	n, err := strconv.ParseUint(tcb, 16, 64)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "TCB", tcb, "16 hex digits")
	}
	at := func(byteNumber int) string { return strconv.Itoa(int(n >> (8 * byteNumber) & 0xff)) }
	v := url.Values{}
	if p == sevsnp.Turin {
		v.Set("fmcSPL", at(0))
		v.Set("blSPL", at(1))
		v.Set("teeSPL", at(2))
		v.Set("snpSPL", at(3))
	} else {
		v.Set("blSPL", at(0))
		v.Set("teeSPL", at(1))
		v.Set("snpSPL", at(6))
	}
	v.Set("ucodeSPL", at(7))
	return v, nil
}

// fetch asks for an endorsement, in the service's turn, and waits as the service says where patience allows.
func (c *Cache) fetch(ctx context.Context, id ID) (raw, issuers []byte, err error) {
	r, err := c.request(id)
	if err != nil {
		return nil, nil, err
	}
	for try := 1; ; try++ {
		d, err := r.service.turn(c.o.Now(), c.o.Patience)
		if err != nil {
			return nil, nil, err
		}
		if d > 0 {
			c.o.Progress(id, fmt.Sprintf("waiting %s for a turn at %s", d.Round(time.Second), r.service.name))
			if err := c.o.Wait(ctx, d); err != nil {
				return nil, nil, down(r.service.name, "gave up waiting for a turn", "an answer")
			}
		}
		c.o.Progress(id, "asking "+r.service.name)
		raw, issuers, again, err := c.ask(ctx, r)
		if err == nil || again <= 0 || again > c.o.Patience || try == maxTries {
			return raw, issuers, err
		}
	}
}

// ask sends one request. again is how long the service asks to wait.
func (c *Cache) ask(ctx context.Context, r request) (raw, issuers []byte, again time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	fail := func(got string) ([]byte, []byte, time.Duration, error) {
		return nil, nil, 0, down(r.service.name, got, "an answer of at most "+strconv.Itoa(maxBody)+" bytes within "+c.o.Timeout.String())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String(), nil)
	if err != nil {
		return fail(err.Error())
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fail(err.Error())
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, nil, 0, fmt.Errorf("%w: %w", errMissing, down(r.service.name, "status "+strconv.Itoa(resp.StatusCode)+", there is none", "an endorsement"))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		again = retryAfter(resp.Header.Get("Retry-After"), c.o.Now(), r.service.interval)
		r.service.hold(c.o.Now().Add(again))
		return nil, nil, again, down(r.service.name, fmt.Sprintf("status %d, again in %s", resp.StatusCode, again), "an answer")
	default: // also redirects: nobody but the configured service is asked
		return fail("status " + strconv.Itoa(resp.StatusCode))
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return fail(err.Error())
	}
	if len(raw) > maxBody {
		return fail("more than " + strconv.Itoa(maxBody) + " bytes")
	}
	if r.header == "" {
		return raw, nil, 0, nil
	}
	values := resp.Header.Values(r.header)
	if len(values) != 1 || len(values[0]) > maxHeader {
		return fail(fmt.Sprintf("%d headers %s", len(values), r.header))
	}
	text, err := url.PathUnescape(values[0])
	if err != nil {
		return fail(r.header + " that can't be unescaped")
	}
	return raw, []byte(text), 0, nil
}

// retryAfter reads both forms of the header; without one it is the service's pace. Bounded, so that one answer can't
// silence a verifier for long.
func retryAfter(value string, now time.Time, standard time.Duration) time.Duration {
	d := max(standard, time.Second)
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, time.Second), maxRetry)
}
