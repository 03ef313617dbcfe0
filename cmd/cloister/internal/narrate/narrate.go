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

// Labels say what each step of the journey means. The order is the journey's.
var Labels = []struct{ Step, Label string }{
	{"expect", "expected measurements, from files alone"},
	{"rules", "rules"},
	{"placement", "quota and placement"},
	{"evidence", "evidence of the launch"},
	{"token", "token from the verifier"},
	{"guest-state-key", "guest-state key released"},
	{"vtpm", "vTPM"},
	{"uefi", "UEFI, Secure Boot"},
	{"image", "image verified"},
	{"os-disk", "OS disk encrypted with a key made inside"},
	{"unlock", "OS disk unlocked by the vTPM, no human"},
	{"distribution", "distribution up"},
	{"guest-attestation", "guest attested"},
	{"restart", "restarted"},
}

func label(step string) string {
	for _, l := range Labels {
		if l.Step == step {
			return l.Label
		}
	}
	return step
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
		fmt.Fprintf(n.Out, "%s %-42s %8s  %s\n", mark, label(step), took, Details(detail))
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
	n.draw(step, Details(detail))
}

func (n *Narrator) draw(step, text string) {
	n.clear()
	line := fmt.Sprintf("… %-42s %s", label(step), text)
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
