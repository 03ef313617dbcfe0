package collateraltest

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"cloister.dev/cloister/evidence/dcap"
)

// PCS is a stand-in for both of Intel's services: /sgx and /tdx/certification/v4, and the root's revocation list.
type PCS struct {
	*Server
	t testing.TB

	mu    sync.Mutex
	files map[string]dcap.Files
}

// NewPCS runs a service that has nothing yet.
func NewPCS(t testing.TB) *PCS {
	t.Helper()
	p := &PCS{t: t, files: map[string]dcap.Files{}}
	p.Server = start(t, p)
	return p
}

// Serve makes collateral known for quotes of a kind ("tdx" or "sgx"), a family of platforms (12 hex digits) and a CA
// ("platform" or "processor"), in place of what was there.
func (p *PCS) Serve(tee, fmspc, ca string, f dcap.Files) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files["tcb/"+tee+"/"+strings.ToLower(fmspc)] = f
	p.files["qe/"+tee] = f
	p.files["pckcrl/"+ca] = f
	p.files["root"] = f
}

func (p *PCS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	tee := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 2)[0]
	answer := func(key, header string, part, issuers func(dcap.Files) []byte) {
		f, ok := p.files[key]
		if !ok || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Request-ID", "0")
		if header != "" {
			w.Header().Set(header, url.PathEscape(string(issuers(f))))
		}
		write(p.t, w, part(f))
	}
	switch r.URL.Path {
	case "/tdx/certification/v4/tcb", "/sgx/certification/v4/tcb":
		answer("tcb/"+tee+"/"+strings.ToLower(q.Get("fmspc")), "TCB-Info-Issuer-Chain", func(f dcap.Files) []byte { return f.TCBInfo }, func(f dcap.Files) []byte { return f.TCBInfoIssuerChain })
	case "/tdx/certification/v4/qe/identity", "/sgx/certification/v4/qe/identity":
		answer("qe/"+tee, "SGX-Enclave-Identity-Issuer-Chain", func(f dcap.Files) []byte { return f.QEIdentity }, func(f dcap.Files) []byte { return f.QEIdentityIssuerChain })
	case "/sgx/certification/v4/pckcrl":
		answer("pckcrl/"+q.Get("ca"), "SGX-PCK-CRL-Issuer-Chain", func(f dcap.Files) []byte { return f.PCKCRL }, func(f dcap.Files) []byte { return f.PCKCRLIssuerChain })
	case "/IntelSGXRootCA.der":
		answer("root", "", func(f dcap.Files) []byte { return f.RootCRL }, nil)
	default:
		http.NotFound(w, r)
	}
}
