package template

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// text is a value as the language writes it into texts: JSON, but strings bare and "True" and "False".
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case Number:
		return string(v)
	case bool:
		if v {
			return "True"
		}
		return "False"
	case nil:
		return ""
	}
	return string(JSON(v))
}

// JSON writes a value of the language; members come in order of their names.
func JSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return []byte("null") // values of the language are made of what JSON has
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// guidSpace is the namespace of Azure's guid function, as Bicep's documentation gives it.
var guidSpace = uuid.MustParse("11fb06fb-712d-4ddd-98c7-e71bbd588830")

// GUID is the name-based UUID (version 5) of a text in Azure's namespace.
func GUID(s string) string { return uuid.NewSHA1(guidSpace, []byte(s)).String() }

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// UniqueString is a digest of 13 characters a-z and 2-7: a Murmur hash of 64 bits in two lanes of 32, seed 0. Azure does
// not document it; this is how others computed it from what Bicep gives.
func UniqueString(s string) string {
	var out [8]byte
	binary.BigEndian.PutUint64(out[:], murmur([]byte(s)))
	return lowerBase32.EncodeToString(out[:])[:13]
}

func murmur(data []byte) uint64 {
	const c1, c2 = 0x239b961b, 0xab0e9789
	var h1, h2 uint32
	mix1 := func(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }
	mix2 := func(k uint32) uint32 { return bits.RotateLeft32(k*c2, 17) * c1 }
	rest := data
	for ; len(rest) >= 8; rest = rest[8:] {
		h1 = bits.RotateLeft32(h1^mix1(binary.LittleEndian.Uint32(rest)), 19) + h2
		h1 = h1*5 + 0x561ccd1b
		h2 = bits.RotateLeft32(h2^mix2(binary.LittleEndian.Uint32(rest[4:])), 13) + h1
		h2 = h2*5 + 0x0bcaa747
	}
	if len(rest) > 0 {
		var last [8]byte
		copy(last[:], rest)
		h1 ^= mix1(binary.LittleEndian.Uint32(last[:]))
		h2 ^= mix2(binary.LittleEndian.Uint32(last[4:])) // of zero it is zero
	}
	n := uint32(len(data))
	h1, h2 = h1^n, h2^n
	h1 += h2
	h2 += h1
	h1, h2 = spread(h1), spread(h2)
	h1 += h2
	h2 += h1
	return uint64(h2)<<32 | uint64(h1)
}

func spread(h uint32) uint32 {
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// Redact takes texts out of a message, also where the message holds only their beginnings of 100 bytes, or has them quoted.
func Redact(message string, secrets []string) string {
	for _, s := range secrets {
		forms := []string{s, strings.Trim(strconv.Quote(s), `"`), strings.Trim(string(JSON(s)), `"`)}
		if len(s) > 100 {
			forms = append(forms, s[:100], clip(s))
		}
		for _, f := range forms {
			if f != "" {
				message = strings.ReplaceAll(message, f, "******")
			}
		}
	}
	return message
}
