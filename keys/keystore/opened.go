package keystore

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Reading a private key costs more than signing with it by an elliptic curve. So one that was used stays readable for a
// short time after its last use; AES keys, which cost nothing to read, never do.
const (
	keptOpen = 10 * time.Second // after the last use
	maxOpen  = 256              // keys
)

// opened holds private keys that were used just now. Whoever could read them from memory could read the keystore's own key
// there too.
type opened struct {
	mu   sync.Mutex
	keys map[[sha256.Size]byte]*openKey
}

type openKey struct {
	key    any
	forget *time.Timer
}

// name is of a sealed key at its address: another address is another key, which has to be unsealed.
func (m Material) name(at Address) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(at.String()))
	h.Write([]byte{0})
	h.Write(m.Handle)
	return [sha256.Size]byte(h.Sum(nil))
}

func (o *opened) get(name [sha256.Size]byte) any {
	o.mu.Lock()
	defer o.mu.Unlock()
	k, ok := o.keys[name]
	if !ok || !k.forget.Reset(keptOpen) {
		return nil
	}
	return k.key
}

func (o *opened) put(name [sha256.Size]byte, key any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.keys == nil {
		o.keys = map[[sha256.Size]byte]*openKey{}
	}
	if _, there := o.keys[name]; there || len(o.keys) >= maxOpen {
		return
	}
	k := &openKey{key: key}
	k.forget = time.AfterFunc(keptOpen, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.keys[name] == k {
			delete(o.keys, name)
		}
	})
	o.keys[name] = k
}

// drop forgets all keys.
func (o *opened) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.keys {
		k.forget.Stop()
	}
	o.keys = nil
}
