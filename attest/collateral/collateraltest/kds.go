package collateraltest

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
)

// KDS is a stand-in for AMD's service over test vendors: /vcek/v1 and /vlek/v1, cert_chain, crl, and VCEKs.
type KDS struct {
	*Server
	t testing.TB

	mu    sync.Mutex
	lines map[sevsnp.Product]*line
}

type line struct {
	vendor *sevsnptest.Vendor
	chips  []*sevsnptest.Chip
	crl    *x509.RevocationList
}

// NewKDS runs a service for vendors, one per product, with a revocation list each that holds for a month around
// sevsnptest.Now and revokes nothing.
func NewKDS(t testing.TB, vendors ...*sevsnptest.Vendor) *KDS {
	t.Helper()
	k := &KDS{t: t, lines: map[sevsnp.Product]*line{}}
	for _, v := range vendors {
		k.lines[v.Product] = &line{vendor: v, crl: v.CRL(t, nil, sevsnptest.Now.AddDate(0, 0, -14), sevsnptest.Now.AddDate(0, 0, 14))}
	}
	k.Server = start(t, k)
	return k
}

// Add makes chips known.
func (k *KDS) Add(chips ...*sevsnptest.Chip) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range chips {
		l := k.lines[c.Vendor.Product]
		l.chips = append(l.chips, c)
	}
}

// SetCRL replaces a product's revocation list.
func (k *KDS) SetCRL(p sevsnp.Product, l *x509.RevocationList) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines[p].crl = l
}

func (k *KDS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if r.Method != http.MethodGet || len(parts) != 4 || parts[1] != "v1" || parts[0] != "vcek" && parts[0] != "vlek" {
		http.NotFound(w, r)
		return
	}
	l := k.lines[sevsnp.Product(parts[2])]
	if l == nil {
		http.NotFound(w, r)
		return
	}
	switch parts[3] {
	case "cert_chain":
		ca := l.vendor.ASK
		if parts[0] == "vlek" {
			ca = l.vendor.ASVK
		}
		for _, c := range []*x509.Certificate{ca, l.vendor.ARK} {
			write(k.t, w, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		}
		return
	case "crl":
		write(k.t, w, l.crl.Raw)
		return
	}
	for _, c := range l.chips {
		if parts[0] == "vcek" && c.Kind == sevsnp.SignedByVCEK && parts[3] == HWID(c) && sameTCB(r.URL.Query(), c) {
			write(k.t, w, c.Chain.Leaf.Raw)
			return
		}
	}
	http.NotFound(w, r)
}

// HWID is a chip's id in AMD's addresses.
func HWID(c *sevsnptest.Chip) string {
	if c.Vendor.Product == sevsnp.Turin {
		return hex.EncodeToString(c.HWID[:8])
	}
	return hex.EncodeToString(c.HWID[:])
}

// sameTCB demands all levels of the product, as AMD's service does.
func sameTCB(q url.Values, c *sevsnptest.Chip) bool {
	want := map[string]uint8{"blSPL": c.TCB.BootLoader, "teeSPL": c.TCB.TEE, "snpSPL": c.TCB.SNP, "ucodeSPL": c.TCB.Microcode}
	if c.Vendor.Product == sevsnp.Turin {
		want["fmcSPL"] = c.TCB.FMC
	}
	for name, v := range want {
		if n, err := strconv.ParseUint(q.Get(name), 10, 8); err != nil || uint8(n) != v {
			return false
		}
	}
	return len(q) == len(want)
}
