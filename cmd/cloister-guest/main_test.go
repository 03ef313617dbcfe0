package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	for _, r := range []struct {
		args []string
		want string // of the error
	}{
		{nil, "no command"},
		{[]string{"shell"}, "unknown command"},
		{[]string{"agent", "x"}, "unexpected"},
		{[]string{"attest", "--nonce", "xyz"}, "--nonce"},
		{[]string{"attest", "-o", "yaml"}, "want text or json"},
		{[]string{"check", "-o", "yaml"}, "want text or json"},
		{[]string{"check", "--unlock"}, "not defined"},
	} {
		var out bytes.Buffer
		err := run(context.Background(), r.args, &out)
		if err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%v: got %v, want %q", r.args, err, r.want)
		}
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"help"}, &out); err != nil || !strings.Contains(out.String(), "attest") {
		t.Errorf("help: %v", err)
	}
}
