package launch

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/vtpm"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// number reads a JSON number, or a text such as "0x80b004".
type number uint64

func (n *number) UnmarshalJSON(raw []byte) error {
	v, err := strconv.ParseUint(string(bytes.Trim(raw, `"`)), 0, 64)
	*n = number(v)
	return err
}

type section struct {
	GPA, Size number
	Type      number `json:"type"`
	Real      number `json:"section_type"`
	EC2       number `json:"SectionTypeInt"`
}

func firmwareOf(list []section) *Firmware {
	f := &Firmware{HasMetadata: true}
	for _, s := range list {
		f.Sections = append(f.Sections, MemorySection{uint32(s.GPA), uint32(s.Size), SectionType(s.Type + s.Real + s.EC2)})
	}
	return f
}

// TestPublishedDigests: digests of QEMU, EC2 and GCE that another project publishes.
func TestPublishedDigests(t *testing.T) {
	var rows []struct {
		TEE                     string
		VCPUs                   int
		CPUModel                *string `json:"cpu_model"`
		Tail                    string  `json:"firmware_tail"`
		Kernel, Initrd, Cmdline *string
		Features                uint64 `json:"sev_features"`
		VMM                     string
		Seed                    *string `json:"firmware_digest_seed"`
		Digest                  string
	}
	load(t, &rows, "launch", "snp-qemu", "expected.json")
	done := 0
	for i, r := range rows {
		if r.TEE != "SEV_SNP" {
			continue // SEV and SEV-ES digests are not made here
		}
		raw := read(t, "launch", "snp-qemu", r.Tail)
		in := SNPInput{Firmware: raw, VCPUs: r.VCPUs, SEVFeatures: r.Features, VMM: map[string]VMM{"QEMU": QEMU, "ec2": EC2, "gce": GCE}[r.VMM]}
		if r.CPUModel != nil {
			in.CPUModel = *r.CPUModel
		}
		if r.Kernel != nil {
			in.Kernel = HashKernel(nil, nil, *r.Cmdline)
		}
		seed := Seed(raw)
		if r.Seed != nil {
			seed = [48]byte(unhex(t, *r.Seed))
		}
		fw, err := ParseFirmware(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := finish(seed, fw, in)
		if err != nil || hex.EncodeToString(got[:]) != r.Digest {
			t.Errorf("row %d: %x, %v, want %s", i, got, err, r.Digest)
		}
		if r.Seed == nil {
			if again, err := SNPDigest(in); err != nil || again != got {
				t.Errorf("row %d by SNPDigest: %x, %v", i, again, err)
			}
		}
		done++
	}
	if done < 16 {
		t.Errorf("only %d rows", done)
	}
	raw := read(t, "launch", "snp-qemu", "ovmf_OvmfX64_suffix.bin")
	if _, err := SNPDigest(SNPInput{Firmware: raw, VCPUs: 1, CPUModel: "EPYC-v4", Kernel: HashKernel(nil, nil, "")}); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("a kernel under firmware that does not measure it: %v", err)
	}
}

// TestSignedDigest predicts the measurement that a real Milan signed.
func TestSignedDigest(t *testing.T) {
	var in struct {
		Cmdline     string    `json:"base_cmdline"`
		Seed        string    `json:"ovmf_hash"`
		Kernel      string    `json:"kernel_hash"`
		Initrd      string    `json:"initrd_hash"`
		Hashes      uint32    `json:"sev_hashes_table_gpa"`
		Reset       uint32    `json:"sev_es_reset_eip"`
		VCPUs       int       `json:"vcpus"`
		Model       string    `json:"vcpu_type"`
		Features    uint64    `json:"guest_features"`
		Sections    []section `json:"ovmf_sections"`
		Measurement string
	}
	load(t, &in, "launch", "snp-real-milan", "launch-input.json")
	r, err := sevsnp.Parse(read(t, "launch", "snp-real-milan", "report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	f := firmwareOf(in.Sections)
	f.HashesGPA, f.HashesSize, f.ResetEIP = in.Hashes, hashTableSize, in.Reset
	k := HashKernel(nil, nil, in.Cmdline)
	k.Kernel, k.Initrd = [32]byte(unhex(t, in.Kernel)), [32]byte(unhex(t, in.Initrd))
	got, err := finish([48]byte(unhex(t, in.Seed)), f, SNPInput{VCPUs: in.VCPUs, CPUModel: in.Model, SEVFeatures: in.Features, Kernel: k})
	if err != nil || got != r.Measurement || hex.EncodeToString(got[:]) != in.Measurement {
		t.Fatalf("%x, %v; the hardware signed %x", got, err, r.Measurement)
	}
	k.Cmdline[0] ^= 1
	if other, err := finish([48]byte(unhex(t, in.Seed)), f, SNPInput{VCPUs: in.VCPUs, CPUModel: in.Model, SEVFeatures: in.Features, Kernel: k}); err != nil || other == got {
		t.Errorf("another command line has the same digest: %v", err)
	}
}

// TestPageInfo: the smallest chains that others publish.
func TestPageInfo(t *testing.T) {
	var rows []struct {
		Name     string
		Start    string `json:"start_digest"`
		PageType byte   `json:"page_type"`
		GPA      number
		Content  *string
		Pages    int
		Of       string `json:"contents_sha384_of"`

		Seed, Cmdline string
		Kernel        string    `json:"kernel_sha256"`
		Initrd        string    `json:"initrd_sha256"`
		Table         number    `json:"hash_table_gpa"`
		Reset         number    `json:"ap_reset_eip"`
		VCPUs         int       `json:"vcpus"`
		Model         string    `json:"cpu_model"`
		Features      uint64    `json:"sev_features"`
		Sections      []section `json:"sections"`
		Digest        string
	}
	load(t, &rows, "launch", "snp-pageinfo", "expected.json")
	for _, r := range rows {
		t.Run(r.Name, func(t *testing.T) {
			var got [48]byte
			switch {
			case r.Seed != "":
				f := firmwareOf(r.Sections)
				f.HashesGPA, f.HashesSize, f.ResetEIP = uint32(r.Table), hashTableSize, uint32(r.Reset)
				k := HashKernel(nil, nil, r.Cmdline)
				k.Kernel, k.Initrd = [32]byte(unhex(t, r.Kernel)), [32]byte(unhex(t, r.Initrd))
				var err error
				if got, err = finish([48]byte(unhex(t, r.Seed)), f, SNPInput{VCPUs: r.VCPUs, CPUModel: r.Model, SEVFeatures: r.Features, Kernel: k}); err != nil {
					t.Fatal(err)
				}
			default:
				d := digest(unhex(t, r.Start))
				switch {
				case r.Of != "":
					d.add(pageType(r.PageType), uint64(r.GPA), sha512.Sum384([]byte(r.Of)))
				case r.Content == nil:
					d.pages(pageType(r.PageType), uint64(r.GPA), uint64(r.Pages)*pageSize)
				default: // the pattern at both ends of three pages
					content := make([]byte, 3*pageSize)
					mark := bytes.Repeat([]byte("LGTM"), 4)
					copy(content, bytes.Repeat(mark, 16))
					copy(content[len(content)-16*len(mark):], bytes.Repeat(mark, 16))
					if !contentIs(t, d, r.PageType, uint64(r.GPA), content, r.Digest) { // "16 x": of four letters, or of the pattern
						content = make([]byte, 3*pageSize)
						copy(content, mark)
						copy(content[len(content)-len(mark):], mark)
					}
					for i := range 3 {
						d.add(pageType(r.PageType), uint64(r.GPA)+uint64(i)*pageSize, sha512.Sum384(content[i*pageSize:(i+1)*pageSize]))
					}
				}
				got = d
			}
			if hex.EncodeToString(got[:]) != r.Digest {
				t.Errorf("%x, want %s", got, r.Digest)
			}
		})
	}
}

func contentIs(t testing.TB, d digest, kind byte, gpa uint64, content []byte, want string) bool {
	t.Helper()
	for i := 0; i < len(content); i += pageSize {
		d.add(pageType(kind), gpa+uint64(i), sha512.Sum384(content[i:i+pageSize]))
	}
	return hex.EncodeToString(d[:]) == want
}

// TestEC2Forms: the form of before May 2026 gives what was published then, and today's another digest.
func TestEC2Forms(t *testing.T) {
	for _, name := range []string{"ovmf_img_1.json", "ovmf_img_2.json"} {
		var in struct {
			VCPUs    int
			Features uint64 `json:"sev_features"`
			Input    struct {
				MetadataItems []section
				ResetEIP      number
				OVMFHash      string
			}
			Digest string `json:"digest_upstream"`
		}
		load(t, &in, "launch", "snp-ec2-metadata", name)
		f := firmwareOf(in.Input.MetadataItems)
		f.ResetEIP = uint32(in.Input.ResetEIP)
		seed := [48]byte(unhex(t, in.Input.OVMFHash))
		got, err := finish(seed, f, SNPInput{VCPUs: in.VCPUs, SEVFeatures: in.Features, VMM: EC2Before202605})
		if err != nil || hex.EncodeToString(got[:]) != in.Digest {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if now, err := finish(seed, f, SNPInput{VCPUs: in.VCPUs, SEVFeatures: in.Features, VMM: EC2}); err != nil || now == got {
			t.Errorf("%s: both forms give one digest, %v", name, err)
		}
	}
	if _, err := finish([48]byte{}, &Firmware{}, SNPInput{VCPUs: 1, VMM: EC2Before202605 + 1}); err == nil {
		t.Error("a form that nobody knows")
	}
}

// TestSVSMChain: pages and sections of an SVSM launch as published; its VMSAs have a form of their own (segments of
// protected mode), which the launcher here never makes: the test writes it from the table of the processor's manual.
func TestSVSMChain(t *testing.T) {
	var in struct {
		Model    string `json:"cpu_model"`
		Digests  map[string]string
		Seed     string `json:"seed_after_svsm_pages"`
		Features uint64 `json:"sev_features"`
		Entry    number `json:"svsm_entry"`
		GPA      number `json:"svsm_gpa"`
	}
	load(t, &in, "launch", "snp-svsm-qemu", "expected.json")
	fw, err := ParseFirmware(read(t, "launch", "snp-svsm-qemu", "meta-svsm.bin"))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signature(in.Model)
	if err != nil {
		t.Fatal(err)
	}
	page := vmsa(QEMU, uint32(in.Entry), true, sig, in.Features)
	le := binary.LittleEndian
	for off, s := range map[int][3]uint32{0x00: {16, 0xc93, 0xffffffff}, 0x10: {8, 0xc9b, 0xffffffff}, 0x20: {16, 0xc93, 0xffffffff}, 0x30: {16, 0xc93, 0xffffffff}, 0x40: {16, 0xc93, 0xffffffff}} {
		le.PutUint16(page[off:], uint16(s[0]))
		le.PutUint16(page[off+2:], uint16(s[1]))
		le.PutUint32(page[off+4:], s[2])
		le.PutUint64(page[off+8:], 0)
	}
	le.PutUint64(page[0x158:], 0x11)             // CR0
	le.PutUint64(page[0x178:], uint64(in.Entry)) // RIP
	le.PutUint16(page[0x410:], 0)                // FCW
	for text, want := range in.Digests {
		vcpus, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		d := digest(unhex(t, in.Seed))
		for _, s := range fw.Sections {
			d.pages(map[SectionType]pageType{SectionMemory: pageZero, SectionSecrets: pageSecrets, SectionCPUID: pageCPUID}[s.Type], uint64(s.GPA), uint64(s.Size))
		}
		for range vcpus {
			d.add(pageVMSA, vmsaGPA, sha512.Sum384(page[:]))
		}
		if hex.EncodeToString(d[:]) != want {
			t.Errorf("%d vCPUs: %x, want %s", vcpus, d, want)
		}
	}
}

// TestConstantEvents: the digests of systemd's own list of events that are the same on every machine.
func TestConstantEvents(t *testing.T) {
	for file, want := range map[string][]Event{
		"350-action-efi-application":                     {{4, "", sha256.Sum256([]byte("Calling EFI Application from Boot Option"))}},
		"400-secureboot-separator--300-0x00000000":       {separator(7)},
		"500-separator--300-0x00000000":                  {separator(0), separator(1), separator(2), separator(3), separator(4), separator(5), separator(6)},
		"800-leave-initrd":                               {{11, "", sha256.Sum256([]byte(LeaveInitrd))}},
		"700-action-efi-exit-boot-services--300-present": {{5, "", sha256.Sum256([]byte("Exit Boot Services Invocation"))}, {5, "", sha256.Sum256([]byte("Exit Boot Services Returned with Success"))}},
	} {
		t.Run(file, func(t *testing.T) {
			var lock struct {
				Records []struct {
					PCR     int
					Digests []struct{ HashAlg, Digest string }
				}
			}
			load(t, &lock, "launch", "pcrlock-systemd262", file+".pcrlock")
			got := map[string]bool{}
			for _, r := range lock.Records {
				for _, d := range r.Digests {
					got[fmt.Sprintf("%d %s %s", r.PCR, d.HashAlg, d.Digest)] = true
				}
			}
			for _, e := range want {
				if !got[fmt.Sprintf("%d sha256 %x", e.PCR, e.Digest)] {
					t.Errorf("PCR %d: %x is not in %v", e.PCR, e.Digest, got)
				}
			}
		})
	}
	stub := [32]byte{1}
	if got, e := PCR11Running(stub); got != Extend(stub, e.Digest) || e.Name != LeaveInitrd {
		t.Error("the phase is not extended")
	}
}

// TestUKISectionsInARealLog: a boot of somebody else's unified kernel image. Names and order of the sections are those that
// the predictor knows, the digest of each name is that of the name and its NUL, and the events explain PCR 11.
func TestUKISectionsInARealLog(t *testing.T) {
	log, err := vtpm.ParseEventLog(read(t, "launch", "tcg-logs", "uki-gcp-tdx.bin"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[[32]byte]string{}
	for _, n := range stubOrder[Stub257] {
		names[sha256.Sum256(append([]byte(n), 0))] = n
	}
	var events []Event
	for _, e := range log.Events {
		if e.PCR == 11 {
			d := [32]byte(e.Digests[vtpm.SHA256])
			events = append(events, Event{11, names[d], d})
		}
	}
	at := 0
	for i := 0; i < len(events); i += 2 {
		for ; at < len(stubOrder[Stub257]) && stubOrder[Stub257][at] != events[i].Name; at++ {
		}
		if at == len(stubOrder[Stub257]) {
			t.Fatalf("event %d (%q) is not in the predictor's order", i, events[i].Name)
		}
	}
	if len(events) < 6 || len(events)%2 != 0 || events[0].Name != ".linux" {
		t.Fatalf("%d events, first %q", len(events), events[0].Name)
	}
	if got, want := replay(events), publishedPCR(t, "uki-gcp-tdx.bin", 11); hex.EncodeToString(got[:]) != want {
		t.Errorf("PCR 11 is %x, want %s", got, want)
	}
}

func publishedPCR(t testing.TB, name string, pcr int) string {
	var newer map[string]struct{ PCRs map[string]map[string]string }
	load(t, &newer, "launch", "tcg-logs", "expected.json")
	if e, ok := newer[name]; ok {
		return e.PCRs["sha256"][strconv.Itoa(pcr)]
	}
	var older map[string]map[string]map[string]string
	load(t, &older, "tcg-eventlogs", "expected-pcrs.json")
	return older[name]["sha256"][strconv.Itoa(pcr)]
}

// TestPCR7OfRealBoots rebuilds a variable store from the variables that somebody's firmware measured, and predicts the
// events of PCR 7 up to the first authority. What a shim measures after it is taken from the log, to come to the
// published value.
func TestPCR7OfRealBoots(t *testing.T) {
	for _, path := range [][]string{{"tcg-eventlogs", "cos-101-amd-sev.bin"}, {"launch", "tcg-logs", "cos-85-amd-sev.bin"}, {"launch", "tcg-logs", "cos-93-amd-sev.bin"},
		{"launch", "tcg-logs", "confidential-gke-debug-251000_eventlog.bin"}, {"launch", "tcg-logs", "event-moklisttrusted.bin"},
		{"launch", "tcg-logs", "keylime-binary_bios_measurements-secureboot"}, {"launch", "tcg-logs", "event-postcode.bin"},
		{"launch", "tcg-logs", "tcglog-parser-binary_bios_measurements"}} {
		t.Run(path[len(path)-1], func(t *testing.T) {
			log, err := vtpm.ParseEventLog(read(t, path...))
			if err != nil {
				t.Fatal(err)
			}
			var digests [][32]byte
			var entry []byte // owner and certificate of the first authority
			vars := map[Variable][]byte{}
			for _, e := range log.Events {
				if e.PCR != 7 {
					continue
				}
				digests = append(digests, [32]byte(e.Digests[vtpm.SHA256]))
				if e.Type != 0x80000001 && (e.Type != 0x800000e0 || entry != nil) {
					continue
				}
				chars := binary.LittleEndian.Uint64(e.Data[16:])
				name := make([]byte, chars)
				for i := range name {
					name[i] = e.Data[32+2*i]
				}
				v := Variable{[16]byte(e.Data), string(name)}
				value := e.Data[32+2*chars:]
				if e.Type == 0x80000001 {
					vars[v] = value
				} else {
					entry = value
				}
				if got := variableDigest(v.Vendor, v.Name, value); got != digests[len(digests)-1] {
					t.Errorf("digest of %s is %x", v.Name, got)
				}
			}
			_, events, err := PCR7(store(vars), entry[16:])
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range events {
				if e.Digest != digests[i] {
					t.Errorf("event %d (%s) is %x, want %x", i, e.Name, e.Digest, digests[i])
				}
			}
			for _, d := range digests[len(events):] {
				events = append(events, Event{7, "by the shim", d})
			}
			if got, want := replay(events), publishedPCR(t, path[len(path)-1], 7); hex.EncodeToString(got[:]) != want {
				t.Errorf("PCR 7 is %x, want %s", got, want)
			}
			if _, _, err := PCR7(store(vars), append([]byte{0}, entry[16:]...)); evidence.CodeOf(err) != evidence.CodePolicy {
				t.Errorf("a certificate that is not in db: %v", err)
			}
			delete(vars, Variable{guidSecurity, "db"})
			if _, _, err := PCR7(store(vars), entry[16:]); evidence.CodeOf(err) != evidence.CodePolicy {
				t.Errorf("HD-13 no db: %v", err)
			}
		})
	}
}

// store writes an OVMF variable store with these variables, live.
func store(vars map[Variable][]byte) []byte {
	le := binary.LittleEndian
	var body []byte
	for v, data := range vars {
		body = append(body, record(v, data, 0x3f)...)
	}
	raw := make([]byte, 72)
	le.PutUint16(raw[48:], 72)
	raw = append(raw, guidStore[:]...)
	raw = le.AppendUint32(raw, uint32(28+len(body)+64))
	raw = append(raw, 0x5a, 0xfe, 0, 0, 0, 0, 0, 0)
	raw = append(raw, body...)
	return append(raw, bytes.Repeat([]byte{0xff}, 64)...)
}

func record(v Variable, data []byte, state byte) []byte {
	le := binary.LittleEndian
	r := append([]byte{0xaa, 0x55, state, 0}, make([]byte, 32)...)
	r = le.AppendUint32(r, uint32(2*len(v.Name)+2))
	r = le.AppendUint32(r, uint32(len(data)))
	r = append(r, v.Vendor[:]...)
	for _, c := range v.Name + "\x00" {
		r = le.AppendUint16(r, uint16(c))
	}
	r = append(r, data...)
	return append(r, bytes.Repeat([]byte{0xff}, (4-len(r)%4)%4)...)
}
