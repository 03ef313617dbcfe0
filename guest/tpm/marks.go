package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var (
	afterDigest = failpoint.New("guest/volume-digest")
	afterMark   = failpoint.New("guest/provisioned-mark")
)

// Volume is what the vTPM knows of the OS volume.
type Volume struct {
	Provisioned bool     // an OS volume was made once; the only thing that tells a first boot from a later one
	Digest      [32]byte // SHA-256 of its volume key
}

const provisioned = 1

// ReadVolume reads the marks. It believes the attributes in the index names, which the matched TPM vouches for, and no
// error code, which anybody could answer.
func (d *Device) ReadVolume() (Volume, error) {
	var v Volume
	mark, err := d.lookup(NVProvisioned)
	if err != nil {
		return v, err
	}
	digest, err := d.lookup(NVVolumeDigest)
	if err != nil {
		return v, err
	}
	for _, x := range []*index{mark, digest} {
		if a := x.pub.Attributes; !a.PlatformCreate || !a.WriteDefine {
			return v, evidence.Refuse(evidence.CodeBoot, fmt.Sprintf("NV index %#x", uint32(x.name.Handle)), "made by the guest or not write-once", "made by the platform, write-once")
		}
	}
	if mark.pub.DataSize != 1 || digest.pub.DataSize != 32 {
		return v, evidence.Refuse(evidence.CodeBoot, "marks", fmt.Sprintf("%d and %d bytes", mark.pub.DataSize, digest.pub.DataSize), "1 and 32 bytes")
	}
	if !mark.pub.Attributes.Written {
		return v, nil
	}
	b, err := mark.read()
	if err != nil {
		return v, err
	}
	if b[0] != provisioned {
		return v, evidence.Refuse(evidence.CodeBoot, "provisioned mark", fmt.Sprint(b[0]), fmt.Sprint(provisioned))
	}
	if !digest.pub.Attributes.Written {
		return v, evidence.Refuse(evidence.CodeBoot, "volume digest", "never written", "written before the provisioned mark")
	}
	if b, err = digest.read(); err != nil {
		return v, err
	}
	copy(v.Digest[:], b)
	v.Provisioned = true
	return v, nil
}

// WriteVolume binds the volume for ever: the digest, then the mark, then both locks. A crash before the mark leaves a first
// boot that may write the digest anew; a crash after it is mended by LockVolume at the next boot.
func (d *Device) WriteVolume(digest [32]byte) error {
	x, err := d.lookup(NVVolumeDigest)
	if err != nil {
		return err
	}
	if err := x.write(digest[:]); err != nil {
		return err
	}
	afterDigest.Hit()
	if x, err = d.lookup(NVProvisioned); err != nil {
		return err
	}
	if err := x.write([]byte{provisioned}); err != nil {
		return err
	}
	afterMark.Hit()
	return d.LockVolume()
}

// LockVolume makes both marks read-only for ever.
func (d *Device) LockVolume() error {
	for _, h := range []tpm2.TPMHandle{NVVolumeDigest, NVProvisioned} {
		x, err := d.lookup(h)
		if err != nil {
			return err
		}
		if err := x.lock(); err != nil {
			return err
		}
	}
	return nil
}
