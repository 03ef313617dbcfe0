// Package narrate tells a person what happens to a VM, step by step with times: a live line on a terminal, plain
// lines elsewhere.
package narrate

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"time"
)

// step is how a step of the journey is told.
type step struct {
	name, label string
	show        []string // details that a person wants, in order; nil: all
}

// steps are in the journey's order.
var steps = []step{
	{"expect", "expected measurements, from files alone", []string{"launch digest", "host data", "PCR 4", "PCR 7", "PCR 11"}},
	{"rules", "rules", []string{"size", "image", "encryption"}},
	{"placement", "quota and placement", []string{"host", "quotaFamily"}},
	{"evidence", "evidence of the launch", nil},
	{"token", "token from the verifier", []string{"issuer", "root"}},
	{"guest-state-key", "guest-state key released", []string{"generation", "operatorTrusted"}},
	{"vtpm", "vTPM", nil},
	{"uefi-variables", "UEFI variables", nil},
	{"uefi", "UEFI, Secure Boot", nil},
	{"image", "image verified", nil},
	{"os-disk", "OS disk encrypted with a key made inside", []string{"percent", "encryption", "reason"}},
	{"unlock", "OS disk unlocked by the vTPM, no human", nil},
	{"distribution", "distribution up", nil},
	{"guest-attestation", "guest attested", []string{"issuer", "claim x-cloister-root", "claim secureboot", "claim x-cloister-pcr11", "code", "error"}},
	{"judged", "evidence judged by this tool", []string{"verdict", "root", "checks"}},
	{"restart", "restarted", nil},
}

func find(name string) step {
	for _, s := range steps {
		if s.name == name {
			return s
		}
	}
	return step{name: name, label: name}
}

// Narrator writes steps.
type Narrator struct {
	Out  io.Writer
	Live bool // a terminal: the step under way is shown and overwritten
	Now  func() time.Time

	began   map[string]time.Time
	shown   bool // a live line is on the screen
	current string
}

// Step tells that a step began, ended or failed.
func (n *Narrator) Step(at time.Time, step, state string, detail map[string]string) {
	if n.began == nil {
		n.began = map[string]time.Time{}
	}
	switch state {
	case "started":
		if _, running := n.began[step]; !running {
			n.began[step] = at
		}
		n.live(step, detail)
	case "done", "failed":
		took := ""
		if from, ok := n.began[step]; ok {
			took = seconds(at.Sub(from))
		}
		delete(n.began, step)
		n.clear()
		mark := "✓"
		if state == "failed" {
			mark = "✗"
		}
		label := find(step).label
		if step == "os-disk" && strings.HasPrefix(detail["encryption"], "none") {
			label = "OS disk copied, not encrypted"
		}
		fmt.Fprintf(n.Out, "%s %-42s %8s  %s\n", mark, label, took, find(step).details(detail))
	}
}

// Say prints a line of its own.
func (n *Narrator) Say(format string, args ...any) {
	n.clear()
	fmt.Fprintf(n.Out, format+"\n", args...)
}

// Tick redraws the live line, so that a person sees that it goes on.
func (n *Narrator) Tick() {
	if from, running := n.began[n.current]; running && n.Live {
		n.draw(n.current, seconds(n.Now().Sub(from)))
	}
}

func (n *Narrator) live(step string, detail map[string]string) {
	if !n.Live {
		return
	}
	n.current = step
	n.draw(step, find(step).details(detail))
}

func (n *Narrator) draw(step, text string) {
	n.clear()
	line := fmt.Sprintf("… %-42s %s", find(step).label, text)
	if r := []rune(line); len(r) > 100 {
		line = string(r[:100])
	}
	fmt.Fprint(n.Out, line)
	n.shown = true
}

func (n *Narrator) clear() {
	if n.shown {
		fmt.Fprint(n.Out, "\r\x1b[K")
		n.shown = false
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", max(d, 0).Seconds()) }

// details prints what is worth telling of a step.
func (s step) details(detail map[string]string) string {
	if s.show == nil {
		return Details(detail)
	}
	var parts []string
	for _, name := range s.show {
		if value, ok := detail[name]; ok {
			parts = append(parts, strings.TrimPrefix(name, "claim ")+" "+short(value))
		}
	}
	return strings.Join(parts, ", ")
}

// Details prints a detail map in a stable order. Long digests are cut: people compare beginnings, programs use -o json.
func Details(detail map[string]string) string {
	names := make([]string, 0, len(detail))
	for name := range detail {
		names = append(names, name)
	}
	sort.Strings(names)
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, name+" "+short(detail[name]))
	}
	return strings.Join(parts, ", ")
}

const digestDigits = 12

func short(s string) string {
	if len(s) >= 40 && strings.Trim(s, "0123456789abcdef") == "" {
		return s[:digestDigits] + "…"
	}
	return s
}
