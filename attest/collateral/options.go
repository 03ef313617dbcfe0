package collateral

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Where the makers of processors serve their endorsements.
const (
	AMDURL               = "https://kdsintf.amd.com"
	IntelURL             = "https://api.trustedservices.intel.com"
	IntelCertificatesURL = "https://certificates.trustedservices.intel.com"
)

// Config is the part of a configuration file.
type Config struct {
	// Dir is the folder to keep endorsements in; empty: they are kept in memory only.
	Dir string `json:"dir,omitempty"`
	// AMD and Intel say whom to ask; absent: that maker is not asked.
	AMD   *AMD   `json:"amd,omitempty"`
	Intel *Intel `json:"intel,omitempty"`
	// Offline asks nobody, whatever the rest says: the folder is all there is.
	Offline bool `json:"offline,omitempty"`
}

// AMD says where AMD's key distribution service is, or a mirror of it.
type AMD struct {
	// URL is its base; empty: AMDURL.
	URL string `json:"url,omitempty"`
}

// Intel says where Intel's provisioning certification service is, or a caching one.
type Intel struct {
	// URL is the base of the service; empty: IntelURL.
	URL string `json:"url,omitempty"`
	// CertificatesURL is the base of the root's revocation list; empty: IntelCertificatesURL.
	CertificatesURL string `json:"certificatesUrl,omitempty"`
}

// Options gives what the configuration says as options.
func (c Config) Options() Options {
	o := Options{Dir: c.Dir}
	if c.Offline {
		return o
	}
	or := func(s, standard string) string {
		if s == "" {
			return standard
		}
		return s
	}
	if c.AMD != nil {
		o.AMD = or(c.AMD.URL, AMDURL)
	}
	if c.Intel != nil {
		o.Intel, o.IntelCertificates = or(c.Intel.URL, IntelURL), or(c.Intel.CertificatesURL, IntelCertificatesURL)
	}
	return o
}

// Validate reports all mistakes at once. It opens nothing.
func (c Config) Validate() error {
	var mistakes []error
	o := c.Options()
	for _, u := range []struct{ field, value string }{{"amd.url", o.AMD}, {"intel.url", o.Intel}, {"intel.certificatesUrl", o.IntelCertificates}} {
		if u.value != "" {
			if _, err := parseBase(u.value); err != nil {
				mistakes = append(mistakes, fmt.Errorf("%s: %w", u.field, err))
			}
		}
	}
	if c.Dir == "" && o.AMD == "" && o.Intel == "" {
		mistakes = append(mistakes, errors.New("dir: empty with nobody to ask, so there would never be anything"))
	}
	return errors.Join(mistakes...)
}

// parseBase reads a service's address. What is fetched is signed; https keeps to ourselves which chips we ask about.
func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q, want https://HOST[:PORT][/PATH]", text)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%q, want https, or http on a loopback address", text)
	}
	return u, nil
}

// Limits of requests.
const (
	// AMDInterval is how often AMD's service takes a request.
	AMDInterval = 10 * time.Second
	intelPause  = 100 * time.Millisecond
	maxBody     = 1 << 20          // bytes of one answer; the largest real ones have some 100 KiB
	maxHeader   = 64 << 10         // bytes of all headers of an answer
	maxRetry    = time.Hour        // of what a Retry-After is believed
	maxTries    = 3                // of one request, while the service asks to wait
	maxKept     = 8192             // endorsements in memory; the folder holds the rest
	maxFailures = 1024             // failures remembered
	missingFor  = time.Hour        // how long "there is none" holds
	downFor     = 30 * time.Second // how long a failure holds at first; each further one holds twice as long, up to
	downAtMost  = 15 * time.Minute
)

// Roots check what was fetched before it is kept.
type Roots struct {
	Authorities func(p sevsnp.Product, key sevsnp.SigningKey, intermediate, root *x509.Certificate, o sevsnp.Options) error
	Chain       func(c sevsnp.Chain, key sevsnp.SigningKey, o sevsnp.Options) error
	Intel       func(root *x509.Certificate) error
}

// Pinned are the pinned roots of the makers.
func Pinned() Roots {
	return Roots{Authorities: sevsnp.CheckAuthorities, Chain: sevsnp.CheckChain, Intel: dcap.CheckRoot}
}

// Options say what a Cache works with. Dir and at least one address, or Dir alone; the rest has defaults.
type Options struct {
	Dir string // folder; empty: memory only
	// Bases of the services; empty: not asked.
	AMD, Intel, IntelCertificates string

	Transport http.RoundTripper                          // default: HTTP by the environment's proxy
	Roots     Roots                                      // default: Pinned
	Now       func() time.Time                           // default: the clock
	Wait      func(context.Context, time.Duration) error // default: a timer
	Jitter    func() float64                             // from 0 to 1; default: random
	Timeout   time.Duration                              // of one request with its answer; default 15 s
	Patience  time.Duration                              // how long one may wait for a service's turn; default 25 s
	Progress  func(id ID, what string)                   // told of each request; default: nobody
}

func (o Options) complete() Options {
	if o.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxResponseHeaderBytes = maxHeader
		o.Transport = t
	}
	if o.Roots.Authorities == nil && o.Roots.Chain == nil && o.Roots.Intel == nil {
		o.Roots = Pinned()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 25 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(ID, string) {}
	}
	return o
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
