package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/pemkey"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client/keywrap"
)

const (
	benchTenant = "11111111-2222-4333-8444-555555555555"
	benchOwner  = "aaaaaaaa-0000-4000-8000-000000000001"
	benchIssuer = "https://login.bench.test/" + benchTenant + "/v2.0"
	benchAttest = "https://attest.bench.test"
)

// keeper is a whole key keeper behind TLS with one key to release.
type keeper struct {
	verifier, signIn *rsa.PrivateKey
	http             *http.Client
	url              string
	bearer, token    string
	transfer         *rsa.PrivateKey
}

func signed(key *rsa.PrivateKey, kid string, claims map[string]any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	jws, err := s.Sign(raw)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// releases compares releases over TLS, one after the other and many at once, with the arithmetic each needs.
func releases(ctx context.Context, dir string) (_ []row, err error) {
	k := &keeper{}
	for _, key := range []**rsa.PrivateKey{&k.verifier, &k.signIn, &k.transfer} {
		if *key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, err
		}
	}
	end, err := k.start(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := k.prepare(ctx); err != nil {
		return nil, err
	}
	arithmetic, err := k.arithmetic()
	if err != nil {
		return nil, err
	}
	rows, err := compare([]pair{{"release over TLS", "1.5 or less", "its arithmetic: two signatures verified, a key wrapped, an answer signed", loop(func() error { return k.release(ctx) }), loop(arithmetic)}})
	if err != nil {
		return nil, err
	}
	ours, err := atOnce(func() error { return k.release(ctx) })
	if err != nil {
		return nil, err
	}
	reference, err := atOnce(arithmetic)
	if err != nil {
		return nil, err
	}
	return append(rows, row{Name: fmt.Sprintf("releases, %d connections", callers), Ours: ours, Reference: reference, Unit: "/s", Target: "0.67 or more", Beside: "its arithmetic on all processors"}), nil
}

const (
	callers  = 16
	atOnceIn = 5 * time.Second
)

// atOnce tells how often a second a call is done by many callers.
func atOnce(call func() error) (float64, error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var n int
	var failed error
	begun := time.Now()
	for range callers {
		all.Go(func() {
			for time.Since(begun) < atOnceIn {
				err := call()
				mu.Lock()
				n, failed = n+1, errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(begun).Seconds(), failed
}

func (k *keeper) start(ctx context.Context, dir string) (end func() error, err error) {
	pass := filepath.Join(dir, "bench-passphrase")
	if err := os.WriteFile(pass, []byte("a passphrase of the benchmark"), 0o600); err != nil {
		return nil, err
	}
	attest, err := pemkey.MarshalPublic(&k.verifier.PublicKey)
	if err != nil {
		return nil, err
	}
	signIn, err := pemkey.MarshalPublic(&k.signIn.PublicKey)
	if err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(nil)
	server.EnableHTTP2 = false
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	service, err := keys.New(ctx, keys.Config{
		Listen: server.Listener.Addr().String(), TLS: keys.TLS{Certificate: "unused", Key: "unused"}, Pools: []string{"bench"}, Suffix: "vault.test", StateDir: filepath.Join(dir, "bench-keys"),
		Keystore: keys.Keystore{PassphraseFile: pass}, Authorities: []keys.Authority{{Issuer: benchAttest, Keys: []keys.Key{{KID: "attest", PEM: string(attest)}}}},
		Identity: keys.Identity{SignIn: "https://login.bench.test/" + benchTenant, Issuers: []keys.Issuer{{URL: benchIssuer, TenantID: benchTenant, Keys: []keys.Key{{KID: "sign-in", PEM: string(signIn)}}}}},
		Roles:    roles.List{{PrincipalID: benchOwner, Role: "Key Vault Crypto Officer", Scope: "/vaults/bench"}}, Throttle: keys.Throttle{RequestsPer10Seconds: 1_000_000},
	}, keys.Environment{Now: time.Now, Getenv: os.Getenv, Cost: cheap}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return nil, err
	}
	server.Config.Handler = service.Handler()
	server.StartTLS()
	t := server.Client().Transport.(*http.Transport).Clone()
	t.TLSClientConfig.ServerName = "example.com"
	t.MaxIdleConnsPerHost = callers
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	k.http, k.url = &http.Client{Transport: t}, "https://bench.vault.test:"+port
	return func() error { server.Close(); return service.Close() }, nil
}

// prepare makes the key and both tokens.
func (k *keeper) prepare(ctx context.Context) (err error) {
	now := time.Now()
	times := func(claims map[string]any) map[string]any {
		claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Unix(), now.Add(time.Hour).Unix()
		return claims
	}
	if k.bearer, err = signed(k.signIn, "sign-in", times(map[string]any{"iss": benchIssuer, "tid": benchTenant, "aud": "https://vault.azure.net", "oid": benchOwner})); err != nil {
		return err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	if k.token, err = signed(k.verifier, "attest", times(map[string]any{"iss": benchAttest, "jti": "1", "x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-vmpl": 0,
		"x-ms-runtime": map[string]any{"keys": []any{map[string]any{"kid": "HCLTransferKey", "kty": "RSA", "key_ops": []string{"encrypt"}, "e": b64(big.NewInt(65537).Bytes()), "n": b64(k.transfer.N.Bytes())}}}})); err != nil {
		return err
	}
	policy := `{"version":"1.0.0","anyOf":[{"authority":"` + benchAttest + `","allOf":[{"claim":"x-ms-attestation-type","equals":"sevsnpvm"}]}]}`
	_, err = k.post(ctx, "/keys/k/create", map[string]any{"kty": "oct-HSM", "key_size": 256, "attributes": map[string]any{"exportable": true}, "release_policy": map[string]any{"data": b64([]byte(policy))}})
	return err
}

func (k *keeper) post(ctx context.Context, path string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.url+path+"?api-version=7.4", bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+k.bearer)
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d %s", path, resp.StatusCode, out)
	}
	return out, err
}

func (k *keeper) release(ctx context.Context) error {
	_, err := k.post(ctx, "/keys/k/release", map[string]any{"target": k.token, "enc": string(keywrap.SHA256)})
	return err
}

// arithmetic is what no release can do without: both tokens' signatures are verified, the key is wrapped and the answer
// signed.
func (k *keeper) arithmetic() (func() error, error) {
	digest := sha256.Sum256([]byte(k.token))
	signature, err := rsa.SignPKCS1v15(nil, k.verifier, crypto.SHA256, digest[:])
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	return func() error {
		for range 2 {
			if err := rsa.VerifyPKCS1v15(&k.verifier.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
				return err
			}
		}
		if _, err := keywrap.Wrap(keywrap.SHA256, &k.transfer.PublicKey, secret); err != nil {
			return err
		}
		_, err := rsa.SignPKCS1v15(nil, k.signIn, crypto.SHA256, digest[:])
		return err
	}, nil
}
