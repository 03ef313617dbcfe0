package keys_test

import (
	"testing"

	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/keystore/hsm"
	"cloister.dev/cloister/keys/keystore/hsm/softhsmtest"
)

// TestPKCS11 runs the whole service on keys that are in a token. It is not parallel: a module serves one token at a time.
func TestPKCS11(t *testing.T) {
	for name, run := range map[string]func(*testing.T, *world){
		"a key's life by Azure's SDK": keyLife, "operations by Azure's SDK": keyOperations, "release by Azure's SDK": keyRelease, "a guest state's life": guestStateLife,
		"a customer's key": customerKeyLife, "brought keys": keyImport,
	} {
		t.Run(name, func(t *testing.T) {
			token := softhsmtest.New(t)
			run(t, newWorldWith(t, func(c *keys.Config) {
				withEncryptionSet(c)
				c.Keystore.PKCS11 = &keys.PKCS11{Module: token.Module, Token: token.Label, PINFile: token.PINFile, InMemory: []hsm.InMemory{hsm.OAEPPadding, hsm.ReleaseWrapping}}
			}))
		})
	}
}
