// Command cloister-guest runs inside a confidential VM: as process 1 of the initrd, and beside the distribution as the
// attestation agent and health check.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/guest/agent"
	"cloister.dev/cloister/guest/boot"
)

const usage = `cloister-guest runs inside a confidential VM.

  agent                      attest once, then answer attestation requests (a service of the running system)
  attest [--nonce HEX] [-o json]
                             collect evidence, get a token from the verifier of the init data, check and print it
  check [--fix] [-o json]    look at swap, clock, Secure Boot and vTPM; --fix switches plain swap off
`

func main() {
	if os.Getpid() == 1 {
		boot.Main()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloister-guest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n\n%s", usage)
	}
	name, args := args[0], args[1:]
	switch name {
	case "agent":
		return runAgent(ctx, args)
	case "attest":
		return runAttest(ctx, args, out)
	case "check":
		return runCheck(args, out)
	case "help", "-h", "--help":
		_, err := io.WriteString(out, usage)
		return err
	}
	return fmt.Errorf("unknown command %q\n\n%s", name, usage)
}

func flags(name string, args []string, set func(f *flag.FlagSet)) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	set(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s: unexpected %q", name, f.Arg(0))
	}
	return nil
}

// format reads -o.
func format(f *flag.FlagSet) *string { return f.String("o", "text", "text or json") }

func checkFormat(o string) error {
	if o != "text" && o != "json" {
		return fmt.Errorf("-o %s: want text or json", o)
	}
	return nil
}

func newAgent() (*agent.Agent, func() error, error) {
	t, err := agent.OpenTPM()
	if err != nil {
		return nil, nil, fmt.Errorf("opening the vTPM: %w", err)
	}
	a, err := agent.New(slog.New(slog.NewJSONHandler(os.Stderr, nil)), t)
	if err != nil {
		return nil, nil, err
	}
	return a, t.Close, nil
}

func runAgent(ctx context.Context, args []string) error {
	if err := flags("agent", args, func(*flag.FlagSet) {}); err != nil {
		return err
	}
	a, done, err := newAgent()
	if err != nil {
		return err
	}
	defer done()
	return a.Run(ctx)
}

func runAttest(ctx context.Context, args []string, out io.Writer) error {
	var nonce, o *string
	if err := flags("attest", args, func(f *flag.FlagSet) {
		nonce = f.String("nonce", "", "challenge of the verifier, in hexadecimal digits; a random one when missing")
		o = format(f)
	}); err != nil {
		return err
	}
	if err := checkFormat(*o); err != nil {
		return err
	}
	challenge, err := hex.DecodeString(*nonce)
	if err != nil {
		return fmt.Errorf("--nonce: %w", err)
	}
	if len(challenge) == 0 {
		challenge = make([]byte, 32)
		if _, err := rand.Read(challenge); err != nil {
			return err
		}
	}
	a, done, err := newAgent()
	if err != nil {
		return err
	}
	defer done()
	e, err := a.Collect(ctx, challenge)
	if err != nil {
		return err
	}
	t, compact, err := a.Token(ctx, e)
	if err != nil {
		return err
	}
	if *o == "json" {
		return json.NewEncoder(out).Encode(map[string]any{"evidence": e.Bundle, "token": compact, "claims": t.Claims})
	}
	_, err = fmt.Fprintf(out, "issuer       %s\nissued       %s\nssh host key %s\ntoken        %s\n", t.Issuer, t.IssuedAt.UTC(), bundle.Fingerprint(e.Bundle.SSHHostKey), compact)
	return err
}

func runCheck(args []string, out io.Writer) error {
	var fix *bool
	var o *string
	if err := flags("check", args, func(f *flag.FlagSet) {
		fix = f.Bool("fix", false, "switch off swap that is not encrypted")
		o = format(f)
	}); err != nil {
		return err
	}
	if err := checkFormat(*o); err != nil {
		return err
	}
	h := agent.Health{Root: os.DirFS("/"), Ready: func() error {
		t, err := agent.OpenTPM()
		if err != nil {
			return err
		}
		defer t.Close()
		return agent.Ready(t)
	}}
	if *fix {
		plain, err := h.PlainSwap()
		if err != nil {
			return err
		}
		for _, area := range plain {
			if err := agent.SwapOff(area); err != nil {
				return fmt.Errorf("switching off %s: %w", area, err)
			}
		}
	}
	findings := h.Check()
	bad := 0
	for _, f := range findings {
		if !f.OK {
			bad++
		}
		if *o == "text" {
			mark := "ok  "
			if !f.OK {
				mark = "FAIL"
			}
			if _, err := fmt.Fprintf(out, "%s %-12s %s\n", mark, f.Name, f.Text); err != nil {
				return err
			}
		}
	}
	if *o == "json" {
		if err := json.NewEncoder(out).Encode(findings); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(findings))
	}
	return nil
}
