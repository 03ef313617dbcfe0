// Package image builds, checks and loads what a VM boots: a signed kernel image, the distribution's root behind
// dm-verity, the disk that holds both, and the firmware variables that let nothing else boot.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"cloister.dev/cloister/evidence"
)

// Default is the name of the image that `up` builds.
const Default = "debian-12"

// ManifestVersion names the manifest's format.
const ManifestVersion = "cloister.image/1"

// ManifestFile is the manifest's name in an image's folder.
const ManifestFile = "manifest.json"

// Kinds of files in an image, as Path takes them.
const (
	KindDisk = "disk" // disk.img, raw, sparse
	KindUKI  = "uki"  // uki.efi, the very file that is on the disk's system partition
	KindVars = "vars" // vars.fd, OVMF's variable store with the installation's keys
)

// File is a file of an image.
type File struct {
	Name   string `json:"file"`
	SHA256 string `json:"sha256"` // hex
	Size   int64  `json:"size"`   // bytes
}

// Package is an installed package of the distribution.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Guest says for one TEE whether the image's kernel can make evidence in it.
type Guest struct {
	TEE       string `json:"tee"` // "software", "sevsnp" or "tdx"
	Supported bool   `json:"supported"`
	Reason    string `json:"reason"`
}

// Manifest describes an image. Digest covers all other fields, so it names the image's whole content.
type Manifest struct {
	Format       string  `json:"format"`
	Name         string  `json:"name"`
	Version      string  `json:"version"`
	Digest       string  `json:"digest"` // "sha256:" and hex, over the JSON of this value with an empty digest
	Distribution string  `json:"distribution"`
	Kernel       string  `json:"kernel"` // as uname -r prints it
	Stub         string  `json:"stub"`   // version of systemd-stub; the order of PCR 11's sections follows from it
	CommandLine  string  `json:"cmdline"`
	Verity       string  `json:"verity"` // dm-verity table without devices
	Disk         File    `json:"disk"`
	UKI          File    `json:"uki"`
	Vars         File    `json:"vars"`
	Certificate  string  `json:"dbCertificate"` // PEM
	Guests       []Guest `json:"guests"`
	// CreatedFrom: SHA-256 of the inputs (guest program, stub, empty variable store, kernel package), and the packages.
	CreatedFrom map[string]string `json:"createdFrom"`
	Packages    []Package         `json:"packages"`

	dir string
}

func (m Manifest) computeDigest() (string, error) {
	m.Digest = ""
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encoding the manifest: %w", err)
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Load reads the manifest of the image in dir and checks that it is whole. Check looks at the files.
func Load(dir string) (*Manifest, error) {
	b, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("loading an image: %w", err)
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("loading the image in %s: %w", dir, err)
	}
	m.dir = dir
	return m, nil
}

var (
	hexDigest  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	plainName  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	errTrailer = errors.New("data after the manifest")
)

func parseManifest(b []byte) (*Manifest, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	m := new(Manifest)
	err := d.Decode(m)
	if err == nil {
		if _, e := d.Token(); e != io.EOF {
			err = errTrailer
		}
	}
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "manifest", err.Error(), "a manifest of "+ManifestVersion)
	}
	if m.Format != ManifestVersion {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "manifest/format", m.Format, ManifestVersion)
	}
	if !plainName.MatchString(m.Name) {
		return nil, evidence.Refuse(evidence.CodeParse, "manifest/name", m.Name, plainName.String())
	}
	for kind, f := range m.files() {
		if !plainName.MatchString(f.Name) || !hexDigest.MatchString(f.SHA256) || f.Size <= 0 {
			return nil, evidence.Refuse(evidence.CodeParse, "manifest/"+kind, fmt.Sprintf("%+v", f), "a plain file name, a SHA-256 and a size")
		}
	}
	want, err := m.computeDigest()
	if err != nil {
		return nil, err
	}
	if m.Digest != want {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "manifest/digest", m.Digest, want)
	}
	return m, nil
}

func (m *Manifest) files() map[string]File {
	return map[string]File{KindDisk: m.Disk, KindUKI: m.UKI, KindVars: m.Vars}
}

// Path is where a file of a loaded or just built image lies; "" for a kind that images do not have.
func (m *Manifest) Path(kind string) string {
	f, ok := m.files()[kind]
	if !ok {
		return ""
	}
	return filepath.Join(m.dir, f.Name)
}
