package launch

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func vectors(t testing.TB, parts ...string) string {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	p := filepath.Join(append([]string{dir}, parts...)...)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("VECTORS MISSING: %v", err)
	}
	return p
}

func load(t testing.TB, v any, parts ...string) {
	t.Helper()
	raw, err := os.ReadFile(vectors(t, parts...))
	if err == nil && v != nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, parts ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(vectors(t, parts...))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestDebianFirmware computes digests of distribution firmware from its seed and its tables.
func TestDebianFirmware(t *testing.T) {
	var files []struct {
		Name, Seed string
		Tail       string `json:"metadata_tail"`
		SeedHex    string `json:"snp_seed_after_firmware_pages"`
		Size       int
	}
	load(t, &files, "launch", "debian-ovmf", "firmware.json")
	var rows []struct {
		Firmware, VMM           string
		VCPUs                   int
		CPUModel                string `json:"cpu_model"`
		Features                uint64 `json:"sev_features"`
		Kernel, Initrd, Cmdline *string
		Digest                  string
	}
	load(t, &rows, "launch", "debian-ovmf", "snp-expected.json")
	for _, r := range rows {
		for _, f := range files {
			if f.Name != r.Firmware {
				continue
			}
			tail := read(t, "launch", "debian-ovmf", f.Tail)
			raw := append(make([]byte, f.Size-len(tail)), tail...)
			fw, err := ParseFirmware(raw)
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			var seed [48]byte
			if _, err := hex.Decode(seed[:], []byte(f.SeedHex)); err != nil {
				t.Fatal(err)
			}
			in := SNPInput{VCPUs: r.VCPUs, CPUModel: r.CPUModel, SEVFeatures: r.Features, VMM: map[string]VMM{"QEMU": QEMU, "qemu": QEMU, "ec2": EC2, "gce": GCE, "EC2": EC2, "GCE": GCE}[r.VMM]}
			if r.Kernel != nil {
				var initrd []byte
				if r.Initrd != nil {
					initrd = read(t, "launch", "debian-ovmf", *r.Initrd)
				}
				cmdline := ""
				if r.Cmdline != nil {
					cmdline = *r.Cmdline
				}
				in.Kernel = HashKernel(read(t, "launch", "debian-ovmf", *r.Kernel), initrd, cmdline)
			}
			got, err := finish(seed, fw, in)
			if r.Digest == "" { // the vectors' sign for a launch that must be refused
				if err == nil {
					t.Errorf("%+v: accepted", r)
				}
				continue
			}
			if err != nil || hex.EncodeToString(got[:]) != r.Digest {
				t.Errorf("%+v: got %x, %v", r, got, err)
			}
		}
	}
}

func TestMiniFirmwareRefusals(t *testing.T) {
	var e struct {
		Bad []struct {
			File string
			For  string `json:"refuse_for"`
			Why  string
		}
	}
	load(t, &e, "launch", "mini-firmware", "expected.json")
	good := read(t, "launch", "mini-firmware", "good.bin")
	if _, err := ParseFirmware(good); err != nil {
		t.Fatal(err)
	}
	for _, b := range e.Bad {
		if !strings.Contains(b.For, "snp") {
			continue
		}
		if _, err := SNPDigest(SNPInput{Firmware: read(t, "launch", "mini-firmware", b.File), VCPUs: 1, CPUModel: "EPYC"}); err == nil {
			t.Errorf("%s accepted: %s", b.File, b.Why)
		}
	}
}

func TestEachInputChangesTheDigest(t *testing.T) {
	good := read(t, "launch", "mini-firmware", "good.bin")
	base := SNPInput{Firmware: good, VCPUs: 2, CPUModel: "EPYC-Milan"}
	seen := map[[48]byte]string{}
	for name, change := range map[string]func(*SNPInput){
		"base": func(*SNPInput) {}, "vcpus": func(i *SNPInput) { i.VCPUs = 3 }, "model": func(i *SNPInput) { i.CPUModel = "EPYC-Genoa" },
		"features": func(i *SNPInput) { i.SEVFeatures = 0x21 }, "vmm": func(i *SNPInput) { i.VMM = EC2 },
		"software": func(i *SNPInput) { i.Metadata = MetadataNone },
		"firmware": func(i *SNPInput) { i.Firmware = append([]byte(nil), good...); i.Firmware[0] ^= 1 },
		"kernel":   func(i *SNPInput) { i.Kernel = HashKernel([]byte("k"), nil, "") },
		"cmdline":  func(i *SNPInput) { i.Kernel = HashKernel([]byte("k"), nil, "x") },
	} {
		in := base
		change(&in)
		got, err := SNPDigest(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if o, dup := seen[got]; dup {
			t.Errorf("%s and %s have one digest", o, name)
		}
		seen[got] = name
	}
}

// TestSplitFirmware measures Debian's split image, which the software launcher runs.
func TestSplitFirmware(t *testing.T) {
	raw, err := os.ReadFile("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
	if err != nil {
		t.Fatalf("install the package ovmf: %v", err)
	}
	if _, err := SNPDigest(SNPInput{Firmware: raw, VCPUs: 2, CPUModel: "EPYC", Metadata: MetadataNone}); err != nil {
		t.Error(err)
	}
	f, err := ParseFirmware(raw)
	t.Logf("tables: %+v, %v", f, err)
}

func FuzzFirmware(f *testing.F) {
	f.Add(make([]byte, pageSize))
	f.Fuzz(func(t *testing.T, raw []byte) { _, _ = ParseFirmware(raw) })
}
