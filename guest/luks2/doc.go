// Package luks2 writes and opens the one form of LUKS2 volume that a Cloister guest makes.
//
// The disk belongs to the host, so nothing on it is interpreted: a header is accepted only when it is,
// byte for byte, what Format would have written around its own salts, UUID, digest and sealed secret.
// That excludes null ciphers, plaintext segments, other sector sizes, foreign key slots and requirements
// by construction. The volumes are ordinary LUKS2 all the same, and cryptsetup opens them.
//
// Only the first header copy is ever read, once, together with the key slot area. The second copy is
// written for other tools.
//
// Numbers in the binary header are big-endian; offsets and sizes are in bytes.
package luks2
