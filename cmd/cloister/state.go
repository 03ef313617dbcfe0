package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cloister.dev/cloister/compute/template"
)

// stateDir is --state, else $CLOISTER_STATE, else the XDG state directory. Source: XDG Base Directory
// Specification, XDG_STATE_HOME.
func stateDir(cmd *cobra.Command) (string, error) {
	dir, err := cmd.Flags().GetString("state")
	if err != nil {
		return "", err
	}
	if dir == "" {
		dir = os.Getenv("CLOISTER_STATE")
	}
	if dir == "" {
		base := os.Getenv("XDG_STATE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("no state folder: %w", err)
			}
			base = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(base, "cloister")
	}
	return filepath.Abs(dir)
}

// output is the -o flag's value: "table" or "json".
func output(cmd *cobra.Command) (string, error) {
	o, err := cmd.Flags().GetString("output")
	if err != nil {
		return "", err
	}
	if o != "table" && o != "json" {
		return "", usageError{fmt.Errorf("-o %s: want table or json", o)}
	}
	return o, nil
}

func addOutput(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "table or json")
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// onTerminal tells whether a person watches.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
}

// explain shortens an API's refusal to its code and text; the SDK's own text repeats the whole exchange.
func explain(err error) string {
	var r *azcore.ResponseError
	if !errors.As(err, &r) || r.RawResponse == nil {
		return err.Error()
	}
	body, readErr := io.ReadAll(r.RawResponse.Body)
	if readErr != nil {
		return err.Error()
	}
	var e struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Target  string `json:"target"`
			Details []struct{ Code, Message, Target string }
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil || e.Error.Code == "" {
		return err.Error()
	}
	text := e.Error.Code + ": " + e.Error.Message
	if e.Error.Target != "" {
		text += " (" + e.Error.Target + ")"
	}
	for _, d := range e.Error.Details {
		text += "\n  " + d.Code + ": " + d.Message
		if d.Target != "" {
			text += " (" + d.Target + ")"
		}
	}
	return text
}

// refusedByRule tells whether the control plane said no by one of its rules, rather than failing.
func refusedByRule(err error) bool {
	if bad := new(template.Error); errors.As(err, &bad) || errors.As(err, new(notValid)) {
		return true
	}
	var r *azcore.ResponseError
	return errors.As(err, &r) && r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != 404 && r.StatusCode != 401
}
