package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/keystore/hsm"
)

// addHSM adds the flags that put keys into a token from the first start on.
func addHSM(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("hsm-module", "", "PKCS #11 library: key material is kept in a token, from the first start on")
	f.String("hsm-token", "", "the token's label")
	f.String("hsm-pin-file", "", "file with the PIN of the token's user")
	f.StringArray("hsm-env", nil, "NAME=VALUE that the library wants in its environment, such as SOFTHSM2_CONF=FILE")
	f.StringSlice("hsm-in-memory", nil, fmt.Sprintf("what may be done in memory where the token can't do it: %q", hsm.Known))
}

// useHSM reads them. None of them: keys stay where they are.
func useHSM(cmd *cobra.Command, i *install.Installation) error {
	var p keys.PKCS11
	given := 0
	for flag, to := range map[string]*string{"hsm-module": &p.Module, "hsm-token": &p.Token, "hsm-pin-file": &p.PINFile} {
		var err error
		if *to, err = cmd.Flags().GetString(flag); err != nil {
			return err
		}
		if *to != "" {
			given++
		}
	}
	words, err := cmd.Flags().GetStringSlice("hsm-in-memory")
	if err != nil {
		return err
	}
	env, err := cmd.Flags().GetStringArray("hsm-env")
	if err != nil {
		return err
	}
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usageError{fmt.Errorf("--hsm-env %s: want NAME=VALUE", e)}
		}
	}
	switch {
	case given == 0 && len(words)+len(env) == 0:
		return nil
	case given < 3:
		return usageError{errors.New("--hsm-module, --hsm-token and --hsm-pin-file belong together")}
	}
	for _, w := range words {
		p.InMemory = append(p.InMemory, hsm.InMemory(w))
	}
	for _, path := range []*string{&p.Module, &p.PINFile} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return i.UseHSM(p, env)
}
