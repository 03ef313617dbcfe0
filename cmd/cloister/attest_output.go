package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"cloister.dev/cloister/evidence"
)

// printInspection writes for people: what was found of authenticity, then every claim.
func printInspection(out io.Writer, j evidence.Judgement) error {
	fmt.Fprintf(out, "kind       %s\nroot       %s\nauthentic  %v\n\n", j.Kind, orNone(string(j.Root)), j.Authentic)
	if err := printChecks(out, j.Checks); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "CLAIM\tVALUE")
	for _, name := range slices.Sorted(maps.Keys(j.Claims)) {
		for i, line := range claimLines(j.Claims[name]) {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%s\t%s\n", name, line)
		}
	}
	return w.Flush()
}

// printVerdict writes a judgement for people.
func printVerdict(out io.Writer, j evidence.Judgement) error {
	fmt.Fprintf(out, "verdict    %s\nkind       %s\nroot       %s\nauthentic  %v\n\n", j.Verdict, j.Kind, orNone(string(j.Root)), j.Authentic)
	return printChecks(out, j.Checks)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// claimLines writes a value in lines of at most 64 characters, which is 32 bytes in hex digits. Of a long object only the
// size is told: -o json has it.
func claimLines(v any) []string {
	text, ok := v.(string)
	if !ok {
		raw, err := json.Marshal(v)
		if err != nil {
			return []string{err.Error()}
		}
		text = string(raw)
		if len(text) > 256 {
			return []string{fmt.Sprintf("(%d characters of JSON; see -o json)", len(text))}
		}
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?' // a stranger's text does not steer a terminal
		}
		return r
	}, text)
	const width = 64
	var lines []string
	for r := []rune(text); ; r = r[width:] {
		if len(r) <= width {
			return append(lines, string(r))
		}
		lines = append(lines, string(r[:width]))
	}
}

// printChecks writes a table of what was checked. What was not asked for is one line: it would hide what counts.
func printChecks(out io.Writer, checks []evidence.Check) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "RESULT\tCLAIM\tGOT\tWANT")
	var notAsked []string
	for _, c := range checks {
		if c.Result == evidence.NotAsked {
			notAsked = append(notAsked, c.Claim)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Result, c.Claim, shorten(printable(c.Got)), shorten(printable(c.Want)))
	}
	if err := w.Flush(); err != nil || len(notAsked) == 0 {
		return err
	}
	_, err := fmt.Fprintf(out, "\nany: %s\n", wrapNames(notAsked))
	return err
}

// shorten keeps a row below 100 columns; -o json has all of it.
func shorten(s string) string {
	const most = 28
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func printable(s string) string { return strings.Join(claimLines(s), "") }
