package hcl

import (
	"encoding/json"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

// RuntimeClaims are what the platform states inside an HCL report. Members that are not known here are
// kept and written again. What counts as evidence is the bytes, never what Marshal makes of them.
type RuntimeClaims struct {
	Keys            []JWK
	VMConfiguration VMConfiguration
	UserData        string // hexadecimal digits of NV index 0x01400002, either case; empty in the oldest form

	extra []member
}

// VMConfiguration is how the VM was set up. A value of one's own writes the six members that today's
// platforms write and, where set, the others; a parsed one writes the members that it had.
type VMConfiguration struct {
	ConsoleEnabled     bool
	RootCertThumbprint string // base64url of the SHA-256 of the AK certificate's root; may be empty
	SecureBoot         bool
	TPMEnabled         bool
	TPMPersisted       bool
	VMUniqueID         string // GUID, upper case on Azure

	CurrentTime                *int64 // seconds since 1970; the host's word, not evidence
	FilteredVPCIDevicesAllowed *bool
	HardwareSealingPolicy      *string // none, hash or signer
	InteractiveConsoleEnabled  *bool
	SecureBootTemplateID       *string

	parsed map[string]bool // members that came; nil for a value of one's own
	extra  []member
}

// MaxClaims bounds the runtime claims, in bytes.
const MaxClaims = maxClaimsSize

// ParseClaims reads runtime claims. No member may come twice.
func ParseClaims(raw []byte) (*RuntimeClaims, error) {
	if len(raw) > MaxClaims {
		return nil, evidence.Refuse(evidence.CodeParse, "runtime claims size", fmt.Sprint(len(raw)), fmt.Sprintf("at most %d", MaxClaims))
	}
	// The strict reader settles what is well-formed; what follows only keeps order and numbers.
	if _, err := strictjson.ObjectWithNumbers("runtime claims", raw); err != nil {
		return nil, err
	}
	members, err := split("runtime claims", raw)
	if err != nil {
		return nil, err
	}
	c := &RuntimeClaims{}
	for _, m := range members {
		switch m.name {
		case "keys":
			if c.Keys, err = parseKeys(m.raw); err != nil {
				return nil, err
			}
		case "vm-configuration":
			if err := c.VMConfiguration.parse(m.raw); err != nil {
				return nil, err
			}
		case "user-data":
			if err := decode("user-data", m.raw, &c.UserData); err != nil {
				return nil, err
			}
		default:
			c.extra = append(c.extra, m)
		}
	}
	return c, nil
}

// Marshal writes compact JSON in the paravisor's order: keys, vm-configuration, user-data, then the members
// that are not known here.
func (c *RuntimeClaims) Marshal() ([]byte, error) {
	keys := c.Keys
	if keys == nil {
		keys = []JWK{}
	}
	var w writer
	w.add("keys", keys)
	config, err := c.VMConfiguration.marshal()
	if err != nil {
		return nil, err
	}
	w.add("vm-configuration", json.RawMessage(config))
	if c.UserData != "" {
		w.add("user-data", c.UserData)
	}
	w.addRaw(c.extra)
	return w.bytes("runtime claims")
}

// field ties a member's name to its place.
type field struct {
	name string
	to   any
}

// fields are ordered by name, as Azure's platform writes them.
func (v *VMConfiguration) fields() []field {
	return []field{
		{"console-enabled", &v.ConsoleEnabled}, {"current-time", &v.CurrentTime},
		{"filtered-vpci-devices-allowed", &v.FilteredVPCIDevicesAllowed}, {"hardware-sealing-policy", &v.HardwareSealingPolicy},
		{"interactive-console-enabled", &v.InteractiveConsoleEnabled}, {"root-cert-thumbprint", &v.RootCertThumbprint},
		{"secure-boot", &v.SecureBoot}, {"secure-boot-template-id", &v.SecureBootTemplateID},
		{"tpm-enabled", &v.TPMEnabled}, {"tpm-persisted", &v.TPMPersisted}, {"vmUniqueId", &v.VMUniqueID},
	}
}

func (v *VMConfiguration) parse(raw json.RawMessage) error {
	members, err := split("vm-configuration", raw)
	if err != nil {
		return err
	}
	v.parsed = map[string]bool{}
	v.extra, err = fill("vm-configuration", members, v.fields(), v.parsed)
	return err
}

func (v *VMConfiguration) marshal() ([]byte, error) {
	var w writer
	for _, f := range v.fields() {
		switch x := f.to.(type) {
		case *bool, *string:
			if v.parsed == nil || v.parsed[f.name] {
				w.add(f.name, x)
			}
		case **bool:
			if *x != nil {
				w.add(f.name, *x)
			}
		case **int64:
			if *x != nil {
				w.add(f.name, *x)
			}
		case **string:
			if *x != nil {
				w.add(f.name, *x)
			}
		}
	}
	w.addRaw(v.extra)
	return w.bytes("vm-configuration")
}
