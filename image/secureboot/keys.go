// Package secureboot makes an installation's own Secure Boot keys, and the firmware's variable store that
// enrols them.
package secureboot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/internal/pemkey"
)

// Key is a private key with its self-signed certificate.
type Key struct {
	Private     *rsa.PrivateKey
	Certificate *x509.Certificate
}

// Keys are the three that UEFI's Secure Boot knows: PK owns the platform, KEK may change db, and what db
// signed may boot.
type Keys struct{ PK, KEK, DB Key }

const (
	keyBits  = 2048 // every firmware knows RSA-2048
	validity = 20 * 365 * 24 * time.Hour
)

var names = [...]string{"PK", "KEK", "db"}

// EnsureKeys loads the keys below dir, or makes them where there are none yet. A folder with some of the
// files is refused: a new db key beside an old PK would silently make every earlier image unbootable.
func EnsureKeys(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the key folder: %w", err)
	}
	var missing int
	for _, n := range names {
		for _, suffix := range []string{".key", ".crt"} {
			_, err := os.Stat(filepath.Join(dir, n+suffix))
			if errors.Is(err, fs.ErrNotExist) {
				missing++
			} else if err != nil {
				return nil, fmt.Errorf("looking for Secure Boot keys: %w", err)
			}
		}
	}
	switch missing {
	case 0:
		return loadKeys(dir)
	case 2 * len(names):
		return makeKeys(dir, time.Now())
	}
	return nil, fmt.Errorf("%s holds only a part of the Secure Boot keys (%d of %d files missing): restore them, or move the folder away to start anew", dir, missing, 2*len(names))
}

func (k *Keys) all() [3]*Key { return [3]*Key{&k.PK, &k.KEK, &k.DB} }

func loadKeys(dir string) (*Keys, error) {
	k := new(Keys)
	for i, slot := range k.all() {
		path := filepath.Join(dir, names[i])
		info, err := os.Stat(path + ".key")
		if err != nil {
			return nil, fmt.Errorf("reading a Secure Boot key: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%s.key has mode %#o: want 0600, others could sign images with it", path, info.Mode().Perm())
		}
		text, err := os.ReadFile(path + ".key")
		if err != nil {
			return nil, fmt.Errorf("reading a Secure Boot key: %w", err)
		}
		private, err := pemkey.Parse[*rsa.PrivateKey](text)
		if err != nil {
			return nil, fmt.Errorf("%s.key: %w", path, err)
		}
		cert, err := readCertificate(path + ".crt")
		if err != nil {
			return nil, err
		}
		if !private.PublicKey.Equal(cert.PublicKey) {
			return nil, fmt.Errorf("%s.crt is not the certificate of %s.key", path, path)
		}
		*slot = Key{private, cert}
	}
	return k, nil
}

// makeKeys writes into a fresh folder and moves the files in place, certificates first: a crash leaves a
// part, which EnsureKeys names, never a key that nobody saw.
func makeKeys(dir string, now time.Time) (*Keys, error) {
	k := new(Keys)
	for i, slot := range k.all() {
		private, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return nil, fmt.Errorf("making the %s key: %w", names[i], err)
		}
		fingerprint := sha256.Sum256(x509.MarshalPKCS1PublicKey(&private.PublicKey))
		template := &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes(fingerprint[:16]),
			Subject:      pkix.Name{CommonName: fmt.Sprintf("Cloister %s %x", names[i], fingerprint[:4])},
			NotBefore:    now.Add(-24 * time.Hour).UTC().Truncate(time.Second),
			NotAfter:     now.Add(validity).UTC().Truncate(time.Second),
			KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			IsCA:         true, BasicConstraintsValid: true,
			SignatureAlgorithm: x509.SHA256WithRSA,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
		if err != nil {
			return nil, fmt.Errorf("making the %s certificate: %w", names[i], err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading back the %s certificate: %w", names[i], err)
		}
		text, err := pemkey.Marshal(private)
		if err != nil {
			return nil, fmt.Errorf("encoding the %s key: %w", names[i], err)
		}
		path := filepath.Join(dir, names[i])
		if err := writeDurably(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
			return nil, err
		}
		if err := writeDurably(path+".key", text, 0o600); err != nil {
			return nil, err
		}
		*slot = Key{private, cert}
	}
	return k, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a Secure Boot certificate: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, fmt.Errorf("%s: want one PEM block of type CERTIFICATE", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

func writeDurably(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing a Secure Boot key: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
