package keywrap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// maxTarget bounds what is wrapped, in bytes; the largest RSA key in PKCS #8 takes less than a tenth of it.
const maxTarget = 64 << 10

// The initial values of RFC 3394 (8 bytes) and RFC 5649 (4 bytes, followed by the length, big-endian).
const (
	iv3394 = 0xA6A6A6A6A6A6A6A6
	iv5649 = 0xA65959A6
)

// WrapPadded is AES key wrap with padding, RFC 5649 section 4.1. The AES key is 16, 24 or 32 bytes.
func WrapPadded(aesKey, target []byte) ([]byte, error) {
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, err
	}
	if len(target) == 0 || len(target) > maxTarget {
		return nil, evidence.Refuse(evidence.CodeParse, "key to wrap", fmt.Sprintf("%d bytes", len(target)), fmt.Sprintf("1 to %d", maxTarget))
	}
	out := make([]byte, 8+(len(target)+7)/8*8)
	binary.BigEndian.PutUint64(out, iv5649<<32|uint64(len(target)))
	copy(out[8:], target)
	if len(out) == 16 {
		block.Encrypt(out, out)
		return out, nil
	}
	wrap(block, out)
	return out, nil
}

// UnwrapPadded is RFC 5649 section 4.2.
func UnwrapPadded(aesKey, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 16 || len(wrapped)%8 != 0 || len(wrapped) > maxTarget+16 {
		return nil, evidence.Refuse(evidence.CodeParse, "wrapped key", fmt.Sprintf("%d bytes", len(wrapped)), "whole blocks of 8, at least 2")
	}
	buf := append([]byte(nil), wrapped...)
	defer clear(buf)
	if len(buf) == 16 {
		block.Decrypt(buf, buf)
	} else {
		unwrap(block, buf)
	}
	head := binary.BigEndian.Uint64(buf)
	n := int(head & 0xFFFFFFFF)
	room := len(buf) - 8
	var want [4]byte
	binary.BigEndian.PutUint32(want[:], iv5649)
	if subtle.ConstantTimeCompare(buf[:4], want[:]) != 1 || n > room || n <= room-8 {
		return nil, wrongKey()
	}
	var pad byte
	for _, b := range buf[8+n:] {
		pad |= b
	}
	if pad != 0 {
		return nil, wrongKey()
	}
	return append([]byte(nil), buf[8:8+n]...), nil
}

// WrapExact is AES key wrap without padding (RFC 3394); the target is whole blocks of 8, at least 2.
func WrapExact(aesKey, target []byte) ([]byte, error) {
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, err
	}
	if len(target) < 16 || len(target)%8 != 0 || len(target) > maxTarget {
		return nil, evidence.Refuse(evidence.CodeParse, "key to wrap", fmt.Sprintf("%d bytes", len(target)), "whole blocks of 8, at least 2")
	}
	out := make([]byte, 8+len(target))
	binary.BigEndian.PutUint64(out, iv3394)
	copy(out[8:], target)
	wrap(block, out)
	return out, nil
}

// UnwrapExact is the reverse of WrapExact.
func UnwrapExact(aesKey, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 24 || len(wrapped)%8 != 0 || len(wrapped) > maxTarget+8 {
		return nil, evidence.Refuse(evidence.CodeParse, "wrapped key", fmt.Sprintf("%d bytes", len(wrapped)), "whole blocks of 8, at least 3")
	}
	buf := append([]byte(nil), wrapped...)
	defer clear(buf)
	unwrap(block, buf)
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], iv3394)
	if subtle.ConstantTimeCompare(buf[:8], want[:]) != 1 {
		return nil, wrongKey()
	}
	return append([]byte(nil), buf[8:]...), nil
}

func wrongKey() error {
	return evidence.Refuse(evidence.CodeBinding, "wrapped key", "integrity check failed", "wrapped with this key and unchanged")
}

// wrap is the function W of RFC 3394 section 2.2.1, in place: 8 bytes of A, then the blocks R.
func wrap(block cipher.Block, buf []byte) {
	var b [16]byte
	n := len(buf)/8 - 1
	copy(b[:8], buf)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[8:], buf[8*i:8*i+8])
			block.Encrypt(b[:], b[:])
			copy(buf[8*i:], b[8:])
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
		}
	}
	copy(buf, b[:8])
}

// unwrap is the reverse of wrap, RFC 3394 section 2.2.2.
func unwrap(block cipher.Block, buf []byte) {
	var b [16]byte
	n := len(buf)/8 - 1
	copy(b[:8], buf)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(b[8:], buf[8*i:8*i+8])
			block.Decrypt(b[:], b[:])
			copy(buf[8*i:], b[8:])
		}
	}
	copy(buf, b[:8])
}
