package api

import (
	"crypto/x509"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

var neededOp = map[string]string{"encrypt": "encrypt", "decrypt": "decrypt", "wrapkey": "wrapKey", "unwrapkey": "unwrapKey", "sign": "sign", "verify": "verify"}

// afterExpiry are the operations that a key still does outside its time: what it protected stays readable.
var afterExpiry = map[string]bool{"decrypt": true, "unwrapkey": true, "verify": true}

func (c *call) crypto(name, version, verb string) (any, error) {
	if err := c.may(operationOf[verb]+"/action", name); err != nil {
		return nil, err
	}
	var in operationBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	k, err := c.live(name)
	if err != nil {
		return nil, err
	}
	if k.GuestState != nil {
		return nil, evidence.Refuse(evidence.CodePolicy, "key "+name, verb, "open, to a VM that proved what it is; a guest-state key does nothing else").By("guest-state key")
	}
	if k.Serves && (verb == "decrypt" || verb == "unwrapkey") {
		return nil, evidence.Refuse(evidence.CodePolicy, "key "+name, verb, "nothing but the guest states of VMs that prove what they are").By("a key that serves confidential VMs unwraps for no caller")
	}
	v, err := c.usable(k, version, afterExpiry[verb])
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.Ops, neededOp[verb]) {
		return nil, &failure{status: 403, code: "Forbidden", message: fmt.Sprintf("Operation %s is not permitted on this key.", neededOp[verb]), inner: "KeyOperationForbidden"}
	}
	value, err := decode("value", in.Value)
	if err != nil {
		return nil, err
	}
	at := keystore.Address{Key: k.ID, Version: v.ID}
	ctx := c.req.Context()
	out := operationResult{KID: c.kid(k, v)}
	switch verb {
	case "encrypt", "wrapkey":
		aad, err := decode("aad", in.AAD)
		if err != nil {
			return nil, err
		}
		s, err := c.Backend.Encrypt(ctx, at, v.Material, in.Alg, value, keystore.Sealed{AAD: aad})
		if err != nil {
			return nil, cryptoError(err)
		}
		out.Value, out.IV, out.Tag, out.AAD = encode(s.Ciphertext), encode(s.IV), encode(s.Tag), encode(s.AAD)
	case "decrypt", "unwrapkey":
		s := keystore.Sealed{Ciphertext: value}
		for _, f := range []struct {
			name, in string
			to       *[]byte
		}{{"iv", in.IV, &s.IV}, {"tag", in.Tag, &s.Tag}, {"aad", in.AAD, &s.AAD}} {
			if *f.to, err = decode(f.name, f.in); err != nil {
				return nil, err
			}
		}
		plain, err := c.Backend.Decrypt(ctx, at, v.Material, in.Alg, s)
		if err != nil {
			return nil, cryptoError(err)
		}
		defer clear(plain)
		out.Value = encode(plain)
	case "sign":
		sig, err := c.Backend.Sign(ctx, at, v.Material, in.Alg, value)
		if err != nil {
			return nil, cryptoError(err)
		}
		out.Value = encode(sig)
	case "verify":
		digest, err := decode("digest", in.Digest)
		if err != nil {
			return nil, err
		}
		if len(v.Material.Public) == 0 {
			return nil, badParameter("verify needs an RSA or EC key")
		}
		pub, err := x509.ParsePKIXPublicKey(v.Material.Public)
		if err != nil {
			return nil, err
		}
		ok, err := keystore.Verify(pub, in.Alg, digest, value)
		if err != nil {
			return nil, cryptoError(err)
		}
		return map[string]bool{"value": ok}, nil
	}
	return out, nil
}

// cryptoError makes a ciphertext that does not decrypt a bad parameter, as Key Vault does.
func cryptoError(err error) error {
	if evidence.CodeOf(err) == evidence.CodeBinding {
		return badParameter("the value does not decrypt with this key")
	}
	return err
}

// usable finds a version that may be used now.
func (c *call) usable(k *keystore.Key, version string, expiredToo bool) (*keystore.Version, error) {
	v := k.Version(version)
	if v == nil {
		return nil, keyNotFound(k.ID.Name + "/" + version)
	}
	refuse := func(got, want string) error {
		return evidence.Refuse(evidence.CodePolicy, "key "+k.ID.Name, got, want).By("key attributes")
	}
	now := c.Now()
	switch {
	case !v.Enabled:
		return nil, refuse("disabled", "enabled")
	case expiredToo:
	case v.NotBefore != nil && now.Before(*v.NotBefore):
		return nil, refuse("not valid before "+v.NotBefore.UTC().Format("2006-01-02T15:04:05Z"), "a key within its time")
	case v.Expires != nil && !now.Before(*v.Expires):
		return nil, refuse("expired at "+v.Expires.UTC().Format("2006-01-02T15:04:05Z"), "a key within its time")
	}
	return v, nil
}
