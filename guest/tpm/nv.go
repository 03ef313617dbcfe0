package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/evidence"
)

// ReadNV reads an NV index in chunks with a password session: the platform serves indexes larger than the TPM's own limit
// (the HCL report, the AK certificate), and only in this way. What it returns must be verified by itself.
func ReadNV(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	p, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("looking up NV index %#x: %w", uint32(index), err)
	}
	pub, err := p.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if pub.DataSize == 0 || pub.DataSize > maxNVSize {
		return nil, evidence.Refuse(evidence.CodeParse, fmt.Sprintf("size of NV index %#x", uint32(index)), fmt.Sprint(pub.DataSize), fmt.Sprintf("1 to %d", maxNVSize))
	}
	out := make([]byte, 0, pub.DataSize)
	for len(out) < int(pub.DataSize) {
		want := min(nvChunk, int(pub.DataSize)-len(out))
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: p.NVName},
			Size:       uint16(want), Offset: uint16(len(out)),
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading NV index %#x at %d: %w", uint32(index), len(out), err)
		}
		if len(r.Data.Buffer) != want {
			return nil, evidence.Refuse(evidence.CodeParse, fmt.Sprintf("NV index %#x", uint32(index)), fmt.Sprintf("%d bytes", len(r.Data.Buffer)), fmt.Sprint(want))
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// index is an NV index whose public area came from the matched TPM.
type index struct {
	d    *Device
	pub  *tpm2.TPMSNVPublic
	name tpm2.NamedHandle
}

func (d *Device) lookup(handle tpm2.TPMHandle) (*index, error) {
	r, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(d.t)
	if err != nil {
		return nil, fmt.Errorf("looking up NV index %#x: %w", uint32(handle), err)
	}
	// The name covers the attributes. Asking again in an audit session proves that the TPM has an index of exactly this name.
	r, err = tpm2.NVReadPublic{NVIndex: tpm2.NamedHandle{Handle: handle, Name: r.NVName}}.Execute(d.t, d.audit())
	if err != nil {
		return nil, fmt.Errorf("looking up NV index %#x: %w", uint32(handle), err)
	}
	pub, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	return &index{d: d, pub: pub, name: tpm2.NamedHandle{Handle: handle, Name: r.NVName}}, nil
}

func (x *index) auth(byOwner bool) tpm2.AuthHandle {
	if byOwner {
		return x.d.owner()
	}
	return tpm2.AuthHandle{Handle: x.name.Handle, Name: x.name.Name, Auth: x.d.session()}
}

func (x *index) read() ([]byte, error) {
	r, err := tpm2.NVRead{AuthHandle: x.auth(x.pub.Attributes.OwnerRead), NVIndex: x.name, Size: x.pub.DataSize}.Execute(x.d.t)
	if err != nil {
		return nil, fmt.Errorf("reading NV index %#x: %w", uint32(x.name.Handle), err)
	}
	return r.Data.Buffer, nil
}

func (x *index) write(data []byte) error {
	_, err := tpm2.NVWrite{AuthHandle: x.auth(x.pub.Attributes.OwnerWrite), NVIndex: x.name, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(x.d.t)
	if err != nil {
		return fmt.Errorf("writing NV index %#x: %w", uint32(x.name.Handle), err)
	}
	return nil
}

func (x *index) lock() error {
	if x.pub.Attributes.WriteLocked {
		return nil
	}
	if _, err := (tpm2.NVWriteLock{AuthHandle: x.auth(x.pub.Attributes.OwnerWrite), NVIndex: x.name}).Execute(x.d.t); err != nil {
		return fmt.Errorf("locking NV index %#x: %w", uint32(x.name.Handle), err)
	}
	return nil
}

// WriteUserData puts what a guest wants in its next HCL report into the user data index, and defines the index when it is missing.
func (d *Device) WriteUserData(data [64]byte) error {
	x, err := d.lookup(NVUserData)
	if isRC(err, tpm2.TPMRCHandle) {
		_, err = tpm2.NVDefineSpace{AuthHandle: d.owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: NVUserData, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true, NT: tpm2.TPMNTOrdinary},
		})}.Execute(d.t)
		if err != nil {
			return fmt.Errorf("defining the user data index: %w", err)
		}
		x, err = d.lookup(NVUserData)
	}
	if err != nil {
		return err
	}
	return x.write(data[:])
}
