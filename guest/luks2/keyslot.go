package luks2

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"io"

	"golang.org/x/crypto/xts"
)

// slotSector is the sector size of the key slot area, whose sectors count from its own start.
const slotSector = 512

func keyEncryptionKey(passphrase, salt []byte) (*xts.Cipher, error) {
	kek, err := pbkdf2.Key(sha256.New, string(passphrase), salt, iterations, VolumeKeySize)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	return xts.NewCipher(aes.NewCipher, kek)
}

func volumeDigest(volumeKey, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(volumeKey), salt, iterations, digestSize)
}

func crypt(area []byte, op func(dst, src []byte, sector uint64)) {
	for i := 0; i*slotSector < len(area); i++ {
		s := area[i*slotSector : (i+1)*slotSector]
		op(s, s, uint64(i))
	}
}

// split spreads a key over stripes so that destroying any of them destroys the key (the AF splitter of LUKS1 with SHA-256).
func split(random io.Reader, key []byte) ([]byte, error) {
	out := make([]byte, len(key)*stripes)
	last := out[len(key)*(stripes-1):]
	if _, err := io.ReadFull(random, out[:len(key)*(stripes-1)]); err != nil {
		return nil, err
	}
	acc := accumulate(out, len(key))
	subtle.XORBytes(last, acc, key)
	return out, nil
}

func merge(material []byte, size int) []byte {
	acc := accumulate(material, size)
	subtle.XORBytes(acc, acc, material[size*(stripes-1):size*stripes])
	return acc
}

func accumulate(material []byte, size int) []byte {
	acc := make([]byte, size)
	for i := 0; i < stripes-1; i++ {
		subtle.XORBytes(acc, acc, material[i*size:(i+1)*size])
		diffuse(acc)
	}
	return acc
}

func diffuse(b []byte) {
	var in [4 + sha256.Size]byte
	for i := 0; i*sha256.Size < len(b); i++ {
		part := b[i*sha256.Size : (i+1)*sha256.Size]
		binary.BigEndian.PutUint32(in[:], uint32(i))
		copy(in[4:], part)
		sum := sha256.Sum256(in[:])
		copy(part, sum[:])
	}
}
