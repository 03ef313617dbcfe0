package tenant

import (
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/image"
)

// Expected is what the evidence of a VM must say, computed before the VM exists.
type Expected struct {
	Measurement [48]byte         // SNP launch digest
	HostData    [32]byte         // digest of the init data
	PCRs        map[int][32]byte // 4, 7, 11; 12 and 13 zero
	Events      []launch.Event   // how each PCR came about
	Image       *image.Manifest
	VCPUs       int
	Roots       []evidence.RootKind // that are accepted
}

// Expect computes a VM's evidence from files alone: firmware, image and init data.
func Expect(trust platform.Trust, size, imageName string, initData []byte) (*Expected, error) {
	s, ok := catalog.Lookup(size)
	if !ok {
		return nil, evidence.Refuse(evidence.CodePolicy, "size", size, "a size of confidential VMs, such as Standard_DC2as_v5")
	}
	img, err := FindImage(trust, imageName)
	if err != nil {
		return nil, err
	}
	if err := img.Check(filepath.Dir(img.Path(image.KindUKI))); err != nil {
		return nil, fmt.Errorf("image %s: %w", imageName, err)
	}
	e := &Expected{HostData: initdata.SNPHostData(initData), Image: img, VCPUs: s.VCPUs, Roots: acceptedRoots(len(trust.SoftwareRoots))}
	if trust.MaxVCPUs > 0 {
		e.VCPUs = min(e.VCPUs, trust.MaxVCPUs)
	}
	firmware, err := os.ReadFile(trust.Firmware)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	if e.Measurement, err = launch.SNPDigest(launch.SNPInput{Firmware: firmware, VCPUs: e.VCPUs, CPUModel: trust.CPUModel, Metadata: launch.MetadataNone}); err != nil {
		return nil, fmt.Errorf("launch digest: %w", err)
	}
	if e.PCRs, e.Events, err = ImagePCRs(img); err != nil {
		return nil, fmt.Errorf("image %s: %w", imageName, err)
	}
	return e, nil
}

// FindImage finds the tenant's own copy of an image, by name or as a folder.
func FindImage(trust platform.Trust, name string) (*image.Manifest, error) {
	dir := filepath.Join(trust.Images, name)
	if strings.ContainsRune(name, filepath.Separator) {
		dir = name
	}
	img, err := image.Load(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "image", name, "an image in "+trust.Images+" (see cloister image list)")
	}
	return img, err
}

// ImagePCRs predicts PCR 4, 7 and 11 of a running system that booted an image, with 12 and 13 zero: nothing may add to
// what is signed.
func ImagePCRs(img *image.Manifest) (map[int][32]byte, []launch.Event, error) {
	uki, err := os.ReadFile(img.Path(image.KindUKI))
	if err != nil {
		return nil, nil, err
	}
	vars, err := os.ReadFile(img.Path(image.KindVars))
	if err != nil {
		return nil, nil, err
	}
	cert, _ := pem.Decode([]byte(img.Certificate))
	if cert == nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, "manifest/dbCertificate", "no PEM", "a certificate")
	}
	stub, err := stubOf(img.Stub)
	if err != nil {
		return nil, nil, err
	}
	pcrs := map[int][32]byte{12: {}, 13: {}}
	var events []launch.Event
	add := func(pcr int, value [32]byte, log []launch.Event, err error) error {
		pcrs[pcr] = value
		events = append(events, log...)
		return err
	}
	v4, l4, err4 := launch.PCR4(uki)
	v7, l7, err7 := launch.PCR7(vars, cert.Bytes)
	v11, l11, err11 := launch.PCR11(uki, stub)
	v11, leave := launch.PCR11Running(v11)
	l11 = append(l11, leave)
	return pcrs, events, errors.Join(add(4, v4, l4, err4), add(7, v7, l7, err7), add(11, v11, l11, err11))
}

// stubOf reads the major number of a stub's version.
func stubOf(version string) (launch.Stub, error) {
	digits := version
	if i := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = version[:i]
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, evidence.Refuse(evidence.CodeUnsupported, "manifest/stub", version, "a version of systemd-stub")
	}
	return launch.Stub(n), nil
}

// Detail lists the values for a person.
func (e *Expected) Detail() map[string]string {
	d := map[string]string{"launch digest": hex.EncodeToString(e.Measurement[:]), "host data": hex.EncodeToString(e.HostData[:])}
	for _, pcr := range []int{4, 7, 11} {
		v := e.PCRs[pcr]
		d[fmt.Sprintf("PCR %d", pcr)] = hex.EncodeToString(v[:])
	}
	return d
}
