package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	"cloister.dev/cloister/evidence"
)

// What every volume of ours looks like.
const (
	Cipher        = "aes-xts-plain64"
	SectorSize    = 4096     // of the data segment
	DataOffset    = 16 << 20 // where the data segment begins
	VolumeKeySize = 64       // AES-256-XTS: two keys
	TokenType     = "cloister-tpm"
	// Region is the part of the device that Format writes and Read reads: both header copies and the key slot.
	Region = keyslotOffset + keyslotSize

	headerSize    = 16384 // binary part and JSON, one copy
	binarySize    = 4096
	keyslotOffset = 2 * headerSize
	keyslotSize   = 258048 // 4000 stripes of 64 bytes, rounded up to 4096
	stripes       = 4000
	iterations    = 1000 // the secret has 256 random bits: stretching adds nothing
	saltSize      = 32
	digestSize    = 32
	headerSalt    = 64
	hashName      = "sha256"
	// MaxToken bounds the sealed secret, in bytes, so that the JSON fits its area.
	MaxToken = 6 << 10
)

// Offsets in the binary header.
const (
	atMagic     = 0
	atVersion   = 6
	atSize      = 8
	atSequence  = 16
	atHashName  = 72
	atSalt      = 104
	atUUID      = 168
	atOffset    = 256
	atChecksum  = 448
	checksumLen = 64
)

var (
	magicFirst  = []byte("LUKS\xba\xbe")
	magicSecond = []byte("SKUL\xba\xbe")
	uuidForm    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// variable is all that differs from one volume to another.
type variable struct {
	uuid        string
	salt        [headerSalt]byte // of the binary header; without meaning, kept for cryptsetup
	keyslotSalt []byte
	digestSalt  []byte
	digest      []byte
	sealed      []byte
}

// The JSON area. 64-bit numbers are strings, as LUKS2 wants them. Member order is what encoding/json makes of the order here.
type metadata struct {
	Keyslots map[string]keyslot `json:"keyslots"`
	Tokens   map[string]token   `json:"tokens"`
	Segments map[string]segment `json:"segments"`
	Digests  map[string]digest  `json:"digests"`
	Config   config             `json:"config"`
}

type keyslot struct {
	Type    string `json:"type"`
	KeySize int    `json:"key_size"`
	AF      struct {
		Type    string `json:"type"`
		Stripes int    `json:"stripes"`
		Hash    string `json:"hash"`
	} `json:"af"`
	Area struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		Encryption string `json:"encryption"`
		KeySize    int    `json:"key_size"`
	} `json:"area"`
	KDF struct {
		Type       string `json:"type"`
		Hash       string `json:"hash"`
		Iterations int    `json:"iterations"`
		Salt       []byte `json:"salt"`
	} `json:"kdf"`
}

type token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
	Sealed   []byte   `json:"sealed"`
}

type segment struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	IVTweak    string `json:"iv_tweak"`
	Encryption string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type config struct {
	JSONSize     string          `json:"json_size"`
	KeyslotsSize string          `json:"keyslots_size"`
	Requirements json.RawMessage `json:"requirements,omitempty"` // ours have none; read to name it in a refusal
}

const only = "0" // the number of the one key slot, token, segment and digest

func (v variable) metadata() metadata {
	var k keyslot
	k.Type, k.KeySize = "luks2", VolumeKeySize
	k.AF.Type, k.AF.Stripes, k.AF.Hash = "luks1", stripes, hashName
	k.Area.Type, k.Area.Offset, k.Area.Size = "raw", fmt.Sprint(keyslotOffset), fmt.Sprint(keyslotSize)
	k.Area.Encryption, k.Area.KeySize = Cipher, VolumeKeySize
	k.KDF.Type, k.KDF.Hash, k.KDF.Iterations, k.KDF.Salt = "pbkdf2", hashName, iterations, v.keyslotSalt
	return metadata{
		Keyslots: map[string]keyslot{only: k},
		Tokens:   map[string]token{only: {Type: TokenType, Keyslots: []string{only}, Sealed: v.sealed}},
		Segments: map[string]segment{only: {Type: "crypt", Offset: fmt.Sprint(DataOffset), Size: "dynamic", IVTweak: "0", Encryption: Cipher, SectorSize: SectorSize}},
		Digests: map[string]digest{only: {Type: "pbkdf2", Keyslots: []string{only}, Segments: []string{only}, Hash: hashName, Iterations: iterations,
			Salt: v.digestSalt, Digest: v.digest}},
		Config: config{JSONSize: fmt.Sprint(headerSize - binarySize), KeyslotsSize: fmt.Sprint(DataOffset - keyslotOffset)},
	}
}

// encode writes one header copy, 16384 bytes. Copy 0 is the first, copy 1 the second.
func (v variable) encode(copyNo int) ([]byte, error) {
	text, err := json.Marshal(v.metadata())
	if err != nil {
		return nil, err
	}
	if len(text) >= headerSize-binarySize {
		return nil, fmt.Errorf("luks2 metadata of %d bytes do not fit %d", len(text), headerSize-binarySize)
	}
	h := make([]byte, headerSize)
	magic := magicFirst
	if copyNo == 1 {
		magic = magicSecond
	}
	copy(h[atMagic:], magic)
	binary.BigEndian.PutUint16(h[atVersion:], 2)
	binary.BigEndian.PutUint64(h[atSize:], headerSize)
	binary.BigEndian.PutUint64(h[atSequence:], 1)
	copy(h[atHashName:], hashName)
	copy(h[atSalt:], v.salt[:])
	copy(h[atUUID:], v.uuid)
	binary.BigEndian.PutUint64(h[atOffset:], uint64(copyNo)*headerSize)
	copy(h[binarySize:], text)
	sum := sha256.Sum256(h) // over the whole copy with the checksum zero
	copy(h[atChecksum:], sum[:])
	return h, nil
}

// decode reads the first header copy. Named checks come first so that a refusal says what is foreign; the comparison of
// all bytes at the end is what decides.
func decode(h []byte) (variable, error) {
	var v variable
	bad := func(field string, got any, want string) (variable, error) {
		return variable{}, evidence.Refuse(evidence.CodeBoot, "luks2 "+field, fmt.Sprint(got), want)
	}
	if !bytes.Equal(h[:len(magicFirst)], magicFirst) {
		return bad("magic", fmt.Sprintf("%x", h[:len(magicFirst)]), fmt.Sprintf("%x", magicFirst))
	}
	sum := append([]byte(nil), h...)
	clear(sum[atChecksum : atChecksum+checksumLen])
	if want := sha256.Sum256(sum); !bytes.Equal(h[atChecksum:atChecksum+sha256.Size], want[:]) {
		return bad("checksum", "another", "that of the header")
	}
	area := bytes.TrimRight(h[binarySize:], "\x00")
	dec := json.NewDecoder(bytes.NewReader(area))
	dec.DisallowUnknownFields()
	var m metadata
	if err := dec.Decode(&m); err != nil {
		return bad("metadata", err, "what this guest writes")
	}
	if _, err := dec.Token(); err != io.EOF {
		return bad("metadata", "bytes after the object", "one object")
	}
	if m.Config.Requirements != nil {
		return bad("requirements", string(m.Config.Requirements), "none")
	}
	s, k, t, d := m.Segments[only], m.Keyslots[only], m.Tokens[only], m.Digests[only]
	switch {
	case len(m.Segments) != 1:
		return bad("segments", len(m.Segments), "1")
	case s.Type != "crypt":
		return bad("segment type", s.Type, "crypt")
	case s.Encryption != Cipher:
		return bad("segment cipher", s.Encryption, Cipher)
	case s.SectorSize != SectorSize:
		return bad("segment sector size", s.SectorSize, fmt.Sprint(SectorSize))
	case len(m.Keyslots) != 1:
		return bad("key slots", len(m.Keyslots), "1")
	case k.Area.Encryption != Cipher:
		return bad("key slot cipher", k.Area.Encryption, Cipher)
	case len(m.Digests) != 1:
		return bad("digests", len(m.Digests), "1")
	case len(m.Tokens) != 1:
		return bad("tokens", len(m.Tokens), "1")
	case t.Type != TokenType:
		return bad("token type", t.Type, TokenType)
	case len(t.Sealed) == 0 || len(t.Sealed) > MaxToken:
		return bad("token", fmt.Sprintf("%d bytes", len(t.Sealed)), fmt.Sprintf("1 to %d", MaxToken))
	case len(k.KDF.Salt) != saltSize || len(d.Salt) != saltSize || len(d.Digest) != digestSize:
		return bad("salts and digest", fmt.Sprintf("%d, %d, %d bytes", len(k.KDF.Salt), len(d.Salt), len(d.Digest)), "32 bytes each")
	}
	v.uuid = string(bytes.TrimRight(h[atUUID:atUUID+40], "\x00"))
	if !uuidForm.MatchString(v.uuid) {
		return bad("uuid", fmt.Sprintf("%q", v.uuid), "a UUID in lower case")
	}
	copy(v.salt[:], h[atSalt:])
	v.keyslotSalt, v.digestSalt, v.digest, v.sealed = k.KDF.Salt, d.Salt, d.Digest, t.Sealed
	same, err := v.encode(0)
	if err != nil {
		return variable{}, err
	}
	if !bytes.Equal(same, h) {
		return bad("header", "differs at byte "+fmt.Sprint(firstDifference(same, h)), "exactly what this guest writes")
	}
	return v, nil
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
