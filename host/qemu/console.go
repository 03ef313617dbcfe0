package qemu

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"

	"cloister.dev/cloister/host/api"
)

// maxLine bounds one line of the console, in bytes; the rest of a longer line is dropped.
const maxLine = 8 << 10

// Finding is something the agent acts on in the console's text.
type Finding struct {
	Event      *api.Event // a step that the guest tells of
	BootFailed string     // why the firmware or the guest will not go on
}

// Console turns raw bytes of a serial port into findings. The text comes from the VM and its firmware, so it
// only ever narrates: nothing is decided from it but giving up a boot that cannot go on.
type Console struct{ line []byte }

var ansi = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]`)

// Feed takes the next bytes and returns what was found in the lines they complete.
func (c *Console) Feed(raw []byte) []Finding {
	var found []Finding
	for {
		i := bytes.IndexByte(raw, '\n')
		part := raw
		if i >= 0 {
			part = raw[:i]
		}
		if room := maxLine - len(c.line); room > 0 {
			c.line = append(c.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return found
		}
		if f, ok := read(ansi.ReplaceAllString(string(c.line), "")); ok {
			found = append(found, f)
		}
		c.line = c.line[:0]
		raw = raw[i+1:]
	}
}

const eventMark = "CLOISTER-EVENT "

func read(line string) (Finding, bool) {
	line = strings.TrimSpace(line)
	if _, text, ok := strings.Cut(line, eventMark); ok {
		var e api.Event
		if json.Unmarshal([]byte(text), &e) == nil && e.Step != "" && e.State != "" {
			return Finding{Event: &e}, true
		}
		return Finding{}, false
	}
	switch {
	case strings.Contains(line, "BdsDxe: failed to load") && strings.Contains(line, "Access Denied"):
		return Finding{BootFailed: "Secure Boot refused the image: " + line}, true
	case strings.Contains(line, "No bootable option or device was found"):
		return Finding{BootFailed: "the firmware found nothing that it may boot"}, true
	case strings.Contains(line, "Kernel panic - not syncing"):
		return Finding{BootFailed: line}, true
	}
	return Finding{}, false
}
