// Package bundle holds what ties the evidence of one VM together. So far that is the user data alone.
package bundle

import "crypto/sha512"

// UserData is the vTPM's user data (NV 0x01400002): SHA-512 over a label and the SSH host key in wire format.
func UserData(sshHostKeyWire []byte) [64]byte {
	return sha512.Sum512(append([]byte("cloister.userdata/1\x00"), sshHostKeyWire...))
}
