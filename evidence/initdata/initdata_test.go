package initdata

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func good() InitData {
	s := Service{URL: "https://localhost:1", SigningKeys: []SigningKey{{KID: "k", PEM: "p"}}}
	return InitData{VMID: "0e4a1b7c-0000-4000-8000-000000000001", Name: "web", AdminUser: "azureuser", OSDiskEncryption: ModeDiskWithVMGuestState, Attest: s, Keys: s}
}

func TestRoundTrip(t *testing.T) {
	raw, err := Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(raw)
	if err != nil || d.VMID != good().VMID {
		t.Fatalf("%+v, %v", d, err)
	}
	padded := append(bytes.Clone(raw), make([]byte, 512)...)
	if !bytes.Equal(Trim(padded), raw) {
		t.Error("the zeros of a disk were not cut")
	}
	if SNPHostData(raw) == SNPHostData(append(bytes.Clone(raw), ' ')) || TDXConfigID(raw) == TDXConfigID(append(bytes.Clone(raw), ' ')) {
		t.Error("SNP-24 a blank more gives the same digest")
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, change := range map[string]func(*InitData){
		"no VM id":                       func(d *InitData) { d.VMID = "" },
		"SVC-12 a VM id with a path":     func(d *InitData) { d.VMID = "../../../../../../../../../../../etc" },
		"a VM id in capitals":            func(d *InitData) { d.VMID = strings.ToUpper("0e4a1b7c-0000-4000-8000-00000000000a") },
		"no name":                        func(d *InitData) { d.Name = "" },
		"SVC-12 a name with a slash":     func(d *InitData) { d.Name = "a/b" },
		"a name with a line break":       func(d *InitData) { d.Name = "a\nb" },
		"a name that is too long":        func(d *InitData) { d.Name = strings.Repeat("a", 64) },
		"a user that is none":            func(d *InitData) { d.AdminUser = "root:x" },
		"CP-02 an unknown mode":          func(d *InitData) { d.OSDiskEncryption = "DISK_WITH_VM_GUEST_STATE" },
		"no mode":                        func(d *InitData) { d.OSDiskEncryption = "" },
		"HD-04 a verifier without a pin": func(d *InitData) { d.Attest.SigningKeys = nil },
		"HD-04 a keeper without a pin":   func(d *InitData) { d.Keys.SigningKeys = nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := good()
			change(&d)
			if _, err := Marshal(d); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("got %v", err)
			}
		})
	}
	d := good()
	d.OSDiskEncryption, d.Keys = ModeNonPersistedTPM, Service{}
	if _, err := Marshal(d); err != nil {
		t.Errorf("without guest state no key keeper is needed: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	raw, err := Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "x", "a list": "[]", "an unknown member": strings.Replace(string(raw), "{", `{"more":1,`, 1), "two objects": string(raw) + string(raw),
		"another version":    strings.Replace(string(raw), Version, "cloister.initdata/2", 1),
		"SVC-11 far too big": string(raw) + strings.Repeat(" ", MaxSize),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(text)); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("got %v", err)
			}
		})
	}
	for n := range raw {
		if _, err := Parse(raw[:n]); err == nil {
			t.Fatalf("accepted the first %d bytes", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	raw, err := Marshal(good())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Parse(raw)
		if err != nil {
			return
		}
		if _, err := json.Marshal(d); err != nil {
			t.Fatal(err)
		}
		if _, err := Marshal(*d); err != nil {
			t.Fatalf("what was accepted can't be written: %v", err)
		}
	})
}
