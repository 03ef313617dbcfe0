// Package localhost resolves names under ".localhost" to the loopback address, as RFC 6761 section 6.3 says they
// must be; Go's own resolver asks the name server for them.
package localhost

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"
)

// Is tells whether a host name is localhost or below it.
func Is(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// DialContext dials as net.Dialer does, with names under localhost taken to 127.0.0.1.
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && Is(host) {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	return d.DialContext(ctx, network, address)
}

// Transport is the standard HTTP transport with this package's dialling.
func Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = DialContext
	t.Proxy = nil // what this is used for is on this machine, or pinned
	return t
}
