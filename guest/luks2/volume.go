package luks2

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
)

// FormatOptions is what a new volume is made of.
type FormatOptions struct {
	UUID       string // lower case
	Passphrase []byte // at least 32 random bytes: it is hardly stretched
	VolumeKey  []byte // VolumeKeySize random bytes
	Sealed     []byte // the passphrase, sealed to the vTPM; goes into the token
}

// Format makes the first Region bytes of a volume. Nothing is written anywhere.
func Format(random io.Reader, o FormatOptions) ([]byte, error) {
	switch {
	case len(o.Passphrase) < 32:
		return nil, fmt.Errorf("passphrase of %d bytes, want at least 32", len(o.Passphrase))
	case len(o.VolumeKey) != VolumeKeySize:
		return nil, fmt.Errorf("volume key of %d bytes, want %d", len(o.VolumeKey), VolumeKeySize)
	case len(o.Sealed) == 0 || len(o.Sealed) > MaxToken:
		return nil, fmt.Errorf("sealed secret of %d bytes, want 1 to %d", len(o.Sealed), MaxToken)
	case !uuidForm.MatchString(o.UUID):
		return nil, fmt.Errorf("uuid %q is not a UUID in lower case", o.UUID)
	}
	v := variable{uuid: o.UUID, keyslotSalt: make([]byte, saltSize), digestSalt: make([]byte, saltSize), sealed: o.Sealed}
	for _, b := range [][]byte{v.salt[:], v.keyslotSalt, v.digestSalt} {
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, err
		}
	}
	var err error
	if v.digest, err = volumeDigest(o.VolumeKey, v.digestSalt); err != nil {
		return nil, err
	}
	region := make([]byte, Region)
	for i := range 2 {
		h, err := v.encode(i)
		if err != nil {
			return nil, err
		}
		copy(region[i*headerSize:], h)
	}
	kek, err := keyEncryptionKey(o.Passphrase, v.keyslotSalt)
	if err != nil {
		return nil, err
	}
	material, err := split(random, o.VolumeKey)
	if err != nil {
		return nil, err
	}
	crypt(material, kek.Encrypt)
	copy(region[keyslotOffset:], material)
	return region, nil
}

// Header is a header that was checked, with the key slot area that was read together with it.
type Header struct {
	v       variable
	keyslot []byte
}

// Read reads Region bytes, once, and checks them. Everything later comes from this copy: what a device answers to a
// second read cannot matter. Errors: fail/boot with the field that is foreign.
func Read(device io.ReaderAt) (*Header, error) {
	region := make([]byte, Region)
	if n, err := device.ReadAt(region, 0); n < len(region) {
		return nil, fmt.Errorf("reading luks2 header: %w", err)
	}
	v, err := decode(region[:headerSize])
	if err != nil {
		return nil, err
	}
	return &Header{v: v, keyslot: region[keyslotOffset:]}, nil
}

// UUID names the volume; it proves nothing.
func (h *Header) UUID() string { return h.v.uuid }

// Sealed is the sealed passphrase from the token.
func (h *Header) Sealed() []byte { return append([]byte(nil), h.v.sealed...) }

// VolumeKey opens the key slot. A wrong passphrase or a changed key slot: fail/boot.
func (h *Header) VolumeKey(passphrase []byte) ([]byte, error) {
	kek, err := keyEncryptionKey(passphrase, h.v.keyslotSalt)
	if err != nil {
		return nil, err
	}
	material := append([]byte(nil), h.keyslot[:VolumeKeySize*stripes]...)
	defer clear(material)
	crypt(material, kek.Decrypt)
	key := merge(material, VolumeKeySize)
	got, err := volumeDigest(key, h.v.digestSalt)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(got, h.v.digest) != 1 {
		clear(key)
		return nil, evidence.Refuse(evidence.CodeBoot, "luks2 key slot", "a volume key of another digest", "the digest in the header")
	}
	return key, nil
}

// KeyDigest is what binds a volume to a vTPM: SHA-256 of the volume key (64 random bytes, so it tells nothing of them).
func KeyDigest(volumeKey []byte) [32]byte { return sha256.Sum256(volumeKey) }
