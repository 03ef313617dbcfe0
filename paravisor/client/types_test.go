package client

import (
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func good() Config {
	return Config{VMID: "11111111-2222-3333-4444-555555555555", Mode: ModeDiskWithVMGuestState, RunDir: "/r", GuestStateFile: "/g", InitDataFile: "/i",
		FirmwareVars: "/v", ScratchDir: "/dev/shm", SoftchipSocket: "/s", SoftchipHandle: "h"}
}

func TestValidate(t *testing.T) {
	for _, r := range []struct {
		name  string
		spoil func(*Config)
		want  string
	}{
		{"as it should be", func(*Config) {}, ""},
		{"no guest state is needed", func(c *Config) { c.Mode, c.GuestStateFile = ModeNonPersistedTPM, "" }, ""},
		{"guest state missing", func(c *Config) { c.GuestStateFile = "" }, "guestStateFile"},
		{"relative path", func(c *Config) { c.RunDir = "run" }, "runDir"},
		{"a path that no socket address holds", func(c *Config) { c.RunDir = "/" + strings.Repeat("r", 100) }, "runDir"},
		{"empty mode", func(c *Config) { c.Mode = "" }, "mode"},
		{"unknown mode", func(c *Config) { c.Mode = "Plain" }, "mode"},
		{"upper-case VM id", func(c *Config) { c.VMID = strings.ToUpper("aaaaaaaa-2222-3333-4444-555555555555") }, "vmId"},
		{"no VM id", func(c *Config) { c.VMID = "" }, "vmId"},
		{"no launch", func(c *Config) { c.SoftchipHandle = "" }, "softchipHandle"},
		{"comma in a path for swtpm", func(c *Config) { c.ScratchDir = "/a,b" }, "comma"},
		{"comma in the log's path", func(c *Config) { c.SwtpmLog = "/a,level=20" }, "comma"},
		{"everything missing is told at once", func(c *Config) { *c = Config{} }, "softchipSocket"},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := good()
			r.spoil(&c)
			err := c.Validate()
			if (err == nil) != (r.want == "") || (err != nil && !strings.Contains(err.Error(), r.want)) {
				t.Errorf("got %v, want %q", err, r.want)
			}
		})
	}
}

func TestParseVMID(t *testing.T) {
	id, err := ParseVMID("00112233-4455-6677-8899-aabbccddeeff")
	if err != nil || id != [16]byte{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff} {
		t.Errorf("%x, %v", id, err)
	}
	for _, s := range []string{"", "00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeefg", "00112233-4455-6677-8899-AABBCCDDEEFF", "001122334455-6677-8899-aabb-ccddeeff", "../../../../../../etc/passwd/aaaaaaa"} {
		if _, err := ParseVMID(s); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%q: %v", s, err)
		}
	}
}
