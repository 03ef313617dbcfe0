package launch

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"strings"

	"cloister.dev/cloister/evidence"
)

// VMM is the form of the initial CPU state: launchers fill it differently.
type VMM int

// The forms.
const (
	QEMU VMM = iota
	EC2
	GCE
	// EC2Before202605 is EC2 until May 2026: RDX is zero.
	EC2Before202605
)

// Metadata says what to do with the firmware's SEV metadata.
type Metadata int

const (
	// MetadataRequired refuses firmware that has none, as an SNP host would. It is the default.
	MetadataRequired Metadata = iota
	// MetadataNone is the software launcher's measure: firmware pages by their address, then the VMSAs.
	// The firmware's tables, if any, are not read, and APs start where the boot CPU does. No SNP
	// processor measures this way.
	MetadataNone
)

// KernelHashes are the SHA-256 values in the hash table.
type KernelHashes struct{ Cmdline, Initrd, Kernel [32]byte }

// HashKernel computes the table's values. The command line is hashed with one NUL after it; no initrd
// is the hash of nothing; the kernel is hashed as it is on disk.
func HashKernel(kernel, initrd []byte, cmdline string) *KernelHashes {
	return &KernelHashes{sha256.Sum256(append([]byte(cmdline), 0)), sha256.Sum256(initrd), sha256.Sum256(kernel)}
}

// SNPInput is everything that the launch digest depends on.
type SNPInput struct {
	Firmware    []byte
	VCPUs       int
	CPUModel    string // QEMU's name; versions (-v1 …) share a signature
	SEVFeatures uint64 // 0 stands for 1 (SNP only)
	Kernel      *KernelHashes
	VMM         VMM
	Metadata    Metadata
}

const (
	maxVCPUs      = 4096
	hashTableSize = 176
	vmsaGPA       = 0xFFFFFFFFF000 // KVM's constant
	bootEIP       = 0xfffffff0
)

// signatures are the CPUID leaf 1 EAX values of QEMU's models.
var signatures = map[string]uint32{
	"EPYC": 0x800f12, "EPYC-Rome": 0x830f10, "EPYC-Milan": 0xa00f11, "EPYC-Genoa": 0xa10f10, "EPYC-Turin": 0xb00f00,
}

func signature(model string) (uint32, error) {
	base := model
	if i := strings.LastIndex(model, "-v"); i > 0 && strings.Trim(model[i+2:], "0123456789") == "" && model[i+2:] != "" {
		base = model[:i]
	}
	if s, ok := signatures[base]; ok {
		return s, nil
	}
	return 0, evidence.Refuse(evidence.CodePolicy, "cpuModel", model, "a named EPYC model (never host)")
}

type pageType byte

const (
	pageNormal  pageType = 1
	pageVMSA    pageType = 2
	pageZero    pageType = 3
	pageSecrets pageType = 5
	pageCPUID   pageType = 6
)

type digest [48]byte

// add chains one page: LD = SHA384(PAGE_INFO), 0x70 bytes little-endian.
func (d *digest) add(t pageType, gpa uint64, contents [48]byte) {
	var info [0x70]byte
	copy(info[0:], d[:])
	copy(info[0x30:], contents[:])
	binary.LittleEndian.PutUint16(info[0x60:], 0x70)
	info[0x62] = byte(t)
	binary.LittleEndian.PutUint64(info[0x68:], gpa)
	*d = sha512.Sum384(info[:])
}

func (d *digest) pages(t pageType, gpa, size uint64) {
	for end := gpa + size; gpa < end; gpa += pageSize {
		d.add(t, gpa, [48]byte{})
	}
}

// SNPDigest computes the measurement that an SNP report will carry.
func SNPDigest(in SNPInput) ([48]byte, error) {
	if len(in.Firmware) < pageSize || len(in.Firmware)%pageSize != 0 || len(in.Firmware) > 64<<20 {
		return [48]byte{}, bad("firmware.size", len(in.Firmware), "a multiple of 4096 up to 64 MiB")
	}
	var f *Firmware
	switch in.Metadata {
	case MetadataNone:
		f = &Firmware{ResetEIP: bootEIP}
	case MetadataRequired:
		var err error
		if f, err = ParseFirmware(in.Firmware); err != nil {
			return [48]byte{}, err
		}
		if !f.HasMetadata {
			return [48]byte{}, bad("firmware.metadata", "none", "SEV metadata")
		}
	default:
		return [48]byte{}, bad("metadata", in.Metadata, "a known option")
	}
	return finish(Seed(in.Firmware), f, in)
}

// Seed is the digest after the firmware's pages: it depends on the file alone.
func Seed(firmware []byte) [48]byte {
	var d digest
	gpa := uint64(1<<32) - uint64(len(firmware))
	for off := 0; off+pageSize <= len(firmware); off += pageSize {
		d.add(pageNormal, gpa+uint64(off), sha512.Sum384(firmware[off:off+pageSize]))
	}
	return d
}

func finish(seed [48]byte, f *Firmware, in SNPInput) ([48]byte, error) {
	d := digest(seed)
	if in.VCPUs < 1 || in.VCPUs > maxVCPUs {
		return [48]byte{}, bad("vcpus", in.VCPUs, "1 to 4096")
	}
	var sig uint32
	if in.VMM == QEMU { // the other forms hold a constant instead
		var err error
		if sig, err = signature(in.CPUModel); err != nil {
			return [48]byte{}, err
		}
	}
	if in.VMM < QEMU || in.VMM > EC2Before202605 {
		return [48]byte{}, bad("vmm", in.VMM, "a known form")
	}
	if in.Kernel != nil && !f.KernelHashes() {
		return [48]byte{}, evidence.Refuse(evidence.CodePolicy, "kernel", "given", "firmware that measures kernel hashes")
	}
	if in.VCPUs > 1 && f.ResetEIP == 0 {
		return [48]byte{}, bad("firmware.resetEIP", "none", "an AP start address for several vCPUs")
	}
	var late []MemorySection
	for _, s := range f.Sections {
		gpa, size := uint64(s.GPA), uint64(s.Size)
		switch s.Type {
		case SectionMemory:
			t := pageZero
			if in.VMM == GCE {
				t = 4
			}
			d.pages(t, gpa, size)
		case SectionSVSMCAA:
			d.pages(pageZero, gpa, size)
		case SectionSecrets:
			d.pages(pageSecrets, gpa, size)
		case SectionCPUID:
			if in.VMM == EC2 || in.VMM == EC2Before202605 {
				late = append(late, s)
				continue
			}
			d.pages(pageCPUID, gpa, size)
		case SectionHashes:
			if in.Kernel == nil {
				d.pages(pageZero, gpa, size)
			} else {
				d.add(pageNormal, gpa, sha512.Sum384(in.Kernel.page(int(f.HashesGPA%pageSize))))
			}
		}
	}
	for _, s := range late {
		d.pages(pageCPUID, uint64(s.GPA), uint64(s.Size))
	}
	features := in.SEVFeatures
	if features == 0 {
		features = 1
	}
	for i := range in.VCPUs {
		eip := uint32(bootEIP)
		if i > 0 {
			eip = f.ResetEIP
		}
		page := vmsa(in.VMM, eip, i == 0, sig, features)
		d.add(pageVMSA, vmsaGPA, sha512.Sum384(page[:]))
	}
	return d, nil
}

// page is the otherwise zero page that holds the hash table.
func (k *KernelHashes) page(at int) []byte {
	p := make([]byte, pageSize)
	t := p[at:]
	entry := func(id string, n uint16) {
		g := guid(id)
		copy(t, g[:])
		binary.LittleEndian.PutUint16(t[16:], n)
		t = t[18:]
	}
	entry("9438d606-4f22-4cc9-b479-a793d411fd21", 168)
	for _, e := range []struct {
		id string
		h  [32]byte
	}{
		{"97d02dd8-bd20-4c94-aa78-e7714d36ab2a", k.Cmdline},
		{"44baf731-3a2f-4bd7-9af1-41e29169781d", k.Initrd},
		{"4de79437-abd2-427f-b835-d5b172d2045b", k.Kernel},
	} {
		entry(e.id, 50)
		copy(t, e.h[:])
		t = t[32:]
	}
	return p
}

// vmsa is a vCPU's initial save area (AMD APM volume 2, table B-4).
func vmsa(vmm VMM, eip uint32, boot bool, sig uint32, features uint64) (p [pageSize]byte) {
	le := binary.LittleEndian
	seg := func(off int, sel, attr uint16, limit uint32, base uint64) {
		le.PutUint16(p[off:], sel)
		le.PutUint16(p[off+2:], attr)
		le.PutUint32(p[off+4:], limit)
		le.PutUint64(p[off+8:], base)
	}
	cs, ss, tr, pat, rdx, mxcsr, fcw := uint16(0x9b), uint16(0x93), uint16(0x8b), uint64(0x0007040600070406), uint64(sig), uint32(0x1f80), uint16(0x37f)
	switch vmm {
	case EC2, EC2Before202605:
		if boot {
			cs = 0x9a
		}
		ss, tr, rdx, mxcsr, fcw = 0x92, 0x83, 0x600, 0, 0
		if vmm == EC2Before202605 {
			rdx = 0
		}
	case GCE:
		pat, rdx, mxcsr, fcw = 0x00070106, 0x600, 0, 0
	}
	for _, off := range []int{0x00, 0x30, 0x40, 0x50} {
		seg(off, 0, 0x93, 0xffff, 0)
	}
	seg(0x10, 0xf000, cs, 0xffff, uint64(eip&0xffff0000))
	seg(0x20, 0, ss, 0xffff, 0)
	seg(0x60, 0, 0, 0xffff, 0)
	seg(0x70, 0, 0x82, 0xffff, 0)
	seg(0x80, 0, 0, 0xffff, 0)
	seg(0x90, 0, tr, 0xffff, 0)
	for off, v := range map[int]uint64{
		0xd0: 0x1000, 0x148: 0x40, 0x158: 0x10, 0x160: 0x400, 0x168: 0xffff0ff0, 0x170: 2,
		0x178: uint64(eip & 0xffff), 0x268: pat, 0x310: rdx, 0x3b0: features, 0x3e8: 1,
	} {
		le.PutUint64(p[off:], v)
	}
	le.PutUint32(p[0x408:], mxcsr)
	le.PutUint16(p[0x410:], fcw)
	return p
}
