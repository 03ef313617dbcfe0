package softchip

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/internal/pemkey"
)

// Files in the chip's directory. The installation pins ark.pem; it is written last, so that its presence
// says that the chip is complete.
const (
	fileRoot  = "ark.pem"
	fileChain = "chain.pem"
	fileKey   = "vcek.key"
)

// levels are the security versions that the chip claims. They are constants: software has no microcode.
var levels = sevsnp.TCB{BootLoader: 4, SNP: 24, Microcode: 219}

// Levels are the security versions that every software chip claims.
func Levels() sevsnp.TCB { return levels }

const lifetime = 25 * 365 * 24 * time.Hour

// Init makes a chip in dir: ARK, ASK and VCEK. The keys of ARK and ASK are dropped once they have signed, so
// nobody can ever add a chip to this root. It refuses a directory that has a chip.
func Init(dir string, now time.Time) error {
	if _, err := os.Stat(filepath.Join(dir, fileRoot)); err == nil {
		return fmt.Errorf("%s has a chip already", dir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for a chip: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the chip's directory: %w", err)
	}
	chain, key, err := makeChip(now)
	if err != nil {
		return fmt.Errorf("making the chip: %w", err)
	}
	keyPEM, err := pemkey.Marshal(key)
	if err != nil {
		return fmt.Errorf("writing the chip's key: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{fileKey, keyPEM, 0o600},
		{fileChain, chain.PEM(), 0o644},
		{fileRoot, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain.Root.Raw}), 0o644},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

func makeChip(now time.Time) (sevsnp.Chain, *ecdsa.PrivateKey, error) {
	fail := func(err error) (sevsnp.Chain, *ecdsa.PrivateKey, error) { return sevsnp.Chain{}, nil, err }
	arkKey, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return fail(err)
	}
	askKey, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return fail(err)
	}
	vcekKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	// An hour back, for clocks that disagree a little.
	from, to := now.Add(-time.Hour).UTC(), now.Add(lifetime).UTC()
	authority := func(cn string, serial int64) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: []string{"Cloister software root, protects from nothing"}},
			SerialNumber: big.NewInt(serial), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	}
	arkTemplate := authority(soft.RootName, 1)
	ark, err := sign(arkTemplate, arkTemplate, &arkKey.PublicKey, arkKey)
	if err != nil {
		return fail(err)
	}
	ask, err := sign(authority(soft.IntermediateName, 2), ark, &askKey.PublicKey, arkKey)
	if err != nil {
		return fail(err)
	}
	extensions, err := vcekExtensions()
	if err != nil {
		return fail(err)
	}
	vcek, err := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "SEV-VCEK"}, SerialNumber: big.NewInt(0), NotBefore: from, NotAfter: to,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: extensions}, ask, &vcekKey.PublicKey, askKey)
	if err != nil {
		return fail(err)
	}
	return sevsnp.Chain{Leaf: vcek, Intermediate: ask, Root: ark}, vcekKey, nil
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// vcekExtensions are AMD's, for a Milan part: that fixes the TCB layout.
func vcekExtensions() ([]pkix.Extension, error) {
	hwid := make([]byte, 64)
	if _, err := rand.Read(hwid); err != nil {
		return nil, err
	}
	amd := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	out := []pkix.Extension{{Id: append(amd[:8:8], 4), Value: hwid}, {Id: append(amd[:8:8], 2), Value: append([]byte{0x16, 8}, "Milan-B0"...)}}
	for _, level := range []struct {
		tail []int
		v    uint8
	}{{[]int{1}, 0}, {[]int{3, 1}, levels.BootLoader}, {[]int{3, 2}, levels.TEE}, {[]int{3, 3}, levels.SNP}, {[]int{3, 8}, levels.Microcode}} {
		der, err := asn1.Marshal(int(level.v))
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: append(amd[:8:8], level.tail...), Value: der})
	}
	return out, nil
}

// writeFile replaces a file so that after a crash there is the old one or the new one.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
