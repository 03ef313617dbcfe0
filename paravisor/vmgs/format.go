// Package vmgs keeps a VM's guest state in one sealed file.
//
// The host stores the file and can read, copy, cut and replace it; it can neither read what is inside
// nor make one. The file has two slots of SlotSize bytes. A write goes to the slot that does not hold the newest
// state and is made durable before anybody relies on it, so a write cut off at any byte leaves the
// older state whole. The newest slot that authenticates wins.
//
// A slot is a header of HeaderSize bytes (all integers big-endian), then the ciphertext:
//
//	 0  8  magic "CLOISGST"
//	 8  4  format version, 1
//	12  4  slot number, 0 or 1
//	16 16  VM id, the UUID's bytes
//	32  8  generation
//	40  8  sequence: grows with every write, never repeats
//	48  4  ciphertext length, tag included
//	52 12  nonce
//	64 32  SHA-256 over bytes 0 to 63 and the ciphertext
//
// The checksum is no protection: it tells a torn write from a whole one before the key is there. The
// ciphertext is AES-256-GCM with bytes 0 to 63 as associated data, under
// HKDF-SHA256(guest-state key, salt = VM id, info = "cloister vmgs/1").
package vmgs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Sizes, in bytes.
const (
	HeaderSize = 96
	SlotSize   = 2 << 20
	FileSize   = 2 * SlotSize
	KeySize    = 32 // the guest-state key, as the key keeper releases it
)

const (
	magic         = "CLOISGST"
	formatVersion = 1
	boundSize     = 64 // the part of the header that is associated data
	tagSize       = 16
)

// VMID is the VM's UUID as bytes.
type VMID [16]byte

func (id VMID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

// header is a slot's header without its checksum.
type header struct {
	slot       uint32
	vm         VMID
	generation uint64
	sequence   uint64
	length     uint32
	nonce      [12]byte
}

func (h header) bound() []byte {
	b := make([]byte, 0, boundSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint32(b, h.slot)
	b = append(b, h.vm[:]...)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	b = binary.BigEndian.AppendUint32(b, h.length)
	return append(b, h.nonce[:]...)
}

// sealedSlot is a slot that is whole, but not authenticated.
type sealedSlot struct {
	header
	ciphertext []byte
}

// readSlot finds out whether a slot is whole. It returns nil, nil for a slot that was never written.
func readSlot(raw []byte, number uint32) (*sealedSlot, error) {
	field := fmt.Sprintf("guest state slot %d", number)
	if len(raw) < HeaderSize {
		return nil, evidence.Refuse(evidence.CodeParse, field, fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at least %d", HeaderSize))
	}
	if allZero(raw[:HeaderSize]) {
		return nil, nil
	}
	if string(raw[:8]) != magic {
		return nil, evidence.Refuse(evidence.CodeParse, field, "another magic", magic)
	}
	v := binary.BigEndian.Uint32(raw[8:])
	if v == 0 { // a first write that was cut off inside this field
		return nil, evidence.Refuse(evidence.CodeParse, field, "a torn write", "a version")
	}
	if v != formatVersion {
		return nil, evidence.Refuse(evidence.CodeUnsupported, field, fmt.Sprintf("version %d", v), fmt.Sprint(formatVersion))
	}
	s := &sealedSlot{header: header{
		slot:       binary.BigEndian.Uint32(raw[12:]),
		vm:         VMID(raw[16:32]),
		generation: binary.BigEndian.Uint64(raw[32:]),
		sequence:   binary.BigEndian.Uint64(raw[40:]),
		length:     binary.BigEndian.Uint32(raw[48:]),
		nonce:      [12]byte(raw[52:64]),
	}}
	if s.slot != number {
		return nil, evidence.Refuse(evidence.CodeBinding, field, fmt.Sprintf("a copy of slot %d", s.slot), "its own number")
	}
	if s.length < tagSize || int64(s.length) > int64(len(raw)-HeaderSize) {
		return nil, evidence.Refuse(evidence.CodeParse, field, fmt.Sprintf("length %d", s.length), fmt.Sprintf("%d to %d", tagSize, len(raw)-HeaderSize))
	}
	s.ciphertext = raw[HeaderSize : HeaderSize+int(s.length)]
	if sum := checksum(raw[:boundSize], s.ciphertext); subtle.ConstantTimeCompare(sum[:], raw[boundSize:HeaderSize]) != 1 {
		return nil, evidence.Refuse(evidence.CodeParse, field, "a torn or damaged write", "a checksum that fits")
	}
	return s, nil
}

// seal builds the bytes of a slot.
func (h header) seal(key []byte, plaintext []byte) ([]byte, error) {
	if len(plaintext) > SlotSize-HeaderSize-tagSize {
		return nil, fmt.Errorf("guest state of %d bytes does not fit a slot of %d", len(plaintext), SlotSize)
	}
	h.length = uint32(len(plaintext) + tagSize)
	aead, err := sealer(key, h.vm)
	if err != nil {
		return nil, err
	}
	bound := h.bound()
	out := make([]byte, HeaderSize, HeaderSize+int(h.length))
	copy(out, bound)
	out = aead.Seal(out, h.nonce[:], plaintext, bound)
	sum := checksum(bound, out[HeaderSize:])
	copy(out[boundSize:HeaderSize], sum[:])
	return out, nil
}

func (s *sealedSlot) open(key []byte) ([]byte, error) {
	aead, err := sealer(key, s.vm)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, s.nonce[:], s.ciphertext, s.bound())
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeBinding, fmt.Sprintf("guest state slot %d", s.slot),
			"does not authenticate under the released key", "guest state sealed by this VM's paravisor")
	}
	return plain, nil
}

func sealer(key []byte, vm VMID) (cipher.AEAD, error) {
	if len(key) != KeySize || allZero(key) {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "guest-state key", fmt.Sprintf("%d bytes, or all zero", len(key)), fmt.Sprintf("%d random bytes", KeySize))
	}
	derived, err := hkdf.Key(sha256.New, key, vm[:], "cloister vmgs/1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the file key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func checksum(bound, ciphertext []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write(bound)
	h.Write(ciphertext)
	h.Sum(sum[:0])
	return sum
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
