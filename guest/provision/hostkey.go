package provision

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
)

const keyType = "ssh-ed25519"

// sshString is the wire form of a byte string: its length in 4 bytes, big-endian, then the bytes (RFC 4251, section 5).
func sshString(out []byte, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(out, uint32(len(s))), s...)
}

// publicWire is the wire form of a public key (RFC 8709, section 4).
func publicWire(pub ed25519.PublicKey) []byte {
	return sshString(sshString(nil, []byte(keyType)), pub)
}

func authorizedLine(pub ed25519.PublicKey, comment string) string {
	return fmt.Sprintf("%s %s root@%s\n", keyType, base64.StdEncoding.EncodeToString(publicWire(pub)), comment)
}

// marshalPrivate writes an unencrypted key in the form that OpenSSH reads ("openssh-key-v1", PROTOCOL.key of OpenSSH). It is
// small enough to spare the initrd an SSH library.
func marshalPrivate(key ed25519.PrivateKey, comment string, random io.Reader) ([]byte, error) {
	pub := key.Public().(ed25519.PublicKey)
	var check [4]byte
	if _, err := io.ReadFull(random, check[:]); err != nil {
		return nil, err
	}
	private := append(check[:], check[:]...)
	private = sshString(private, []byte(keyType))
	private = sshString(private, pub)
	private = sshString(private, key)
	private = sshString(private, []byte("root@"+comment))
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	out := []byte("openssh-key-v1\x00")
	out = sshString(out, []byte("none")) // cipher
	out = sshString(out, []byte("none")) // kdf
	out = sshString(out, nil)            // kdf options
	out = binary.BigEndian.AppendUint32(out, 1)
	out = sshString(out, publicWire(pub))
	out = sshString(out, private)
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: out}), nil
}

// ParseHostKey reads a .pub file and returns the key's wire form, whose digest goes into the evidence.
func ParseHostKey(pubFile []byte) ([]byte, error) {
	f := strings.Fields(string(pubFile))
	if len(f) < 2 || f[0] != keyType {
		return nil, fmt.Errorf("not an %s public key", keyType)
	}
	wire, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return nil, err
	}
	if want := sshString(nil, []byte(keyType)); len(wire) != len(want)+4+ed25519.PublicKeySize || string(wire[:len(want)]) != string(want) {
		return nil, fmt.Errorf("not an %s public key", keyType)
	}
	return wire, nil
}
