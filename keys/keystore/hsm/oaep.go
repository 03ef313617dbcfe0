package hsm

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"cloister.dev/cloister/keys/keystore"
)

// unpadOAEP takes the padding of RSA-OAEP (empty label) off a block that was decrypted without padding. Every wrong
// block takes the same way and gets the same answer. Source: RFC 8017, section 7.1.2, step 3.
func unpadOAEP(h hash.Hash, block []byte, size int) ([]byte, error) {
	n := h.Size()
	if size < 2*n+2 || len(block) > size {
		return nil, keystore.NotThisKey()
	}
	em := make([]byte, size)
	defer clear(em)
	copy(em[size-len(block):], block) // tokens may drop leading zeros
	seed, db := em[1:1+n], em[1+n:]
	mask(h, seed, db)
	mask(h, db, seed)
	h.Reset()
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(h.Sum(nil), db[:n])
	// After the label's hash come zeros, one 1, and the message.
	looking, index := 1, 0
	for i, b := range db[n:] {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		index = subtle.ConstantTimeSelect(looking&one, i, index)
		good &= (1 - looking) | zero | one
		looking &= 1 - one
	}
	if good&(1-looking) != 1 {
		return nil, keystore.NotThisKey()
	}
	return append([]byte(nil), db[n+index+1:]...), nil
}

// mask XORs the MGF1 stream of seed into out. Source: RFC 8017, appendix B.2.1.
func mask(h hash.Hash, out, seed []byte) {
	var counter [4]byte
	for done := 0; done < len(out); {
		h.Reset()
		h.Write(seed)
		h.Write(counter[:])
		for _, b := range h.Sum(nil) {
			if done == len(out) {
				break
			}
			out[done] ^= b
			done++
		}
		binary.BigEndian.PutUint32(counter[:], binary.BigEndian.Uint32(counter[:])+1)
	}
}
