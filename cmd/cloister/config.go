package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/attest"
	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/host"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/softchip"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Work with configuration files", Example: "  cloister config check host.yaml"}
	cmd.AddCommand(&cobra.Command{
		Use: "check FILE…", Short: "Report all mistakes in configuration files", Args: cobra.MinimumNArgs(1),
		Long: `Report all mistakes in configuration files. The kind of each (compute, host, attest, keys, softchip) is known by its
members. Unknown members are mistakes.`,
		Example: "  cloister config check compute.yaml host.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, path := range args {
				kind, err := checkConfig(path)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", path, err))
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (%s)\n", path, kind)
			}
			return errors.Join(errs...)
		},
	})
	return cmd
}

// configKinds tells files apart by a member that only one kind has.
var configKinds = []struct {
	kind, member string
	check        func(raw []byte) error
}{
	{"compute", "signIn", func(raw []byte) error {
		var c install.ComputeConfig
		if err := yaml.UnmarshalStrict(raw, &c); err != nil {
			return err
		}
		return errors.Join(c.Compute.Validate(), c.SignIn.Validate(), c.Vault.Validate())
	}},
	{"host", "controlPlane", checkAs[host.Config]},
	{"keys", "suffix", checkAs[keys.Config]},
	{"attest", "stateDir", checkAs[attest.Config]},
	{"softchip", "socket", checkAs[softchip.Config]},
}

func checkAs[T interface{ Validate() error }](raw []byte) error {
	var c T
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return err
	}
	return c.Validate()
}

func checkConfig(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var members map[string]any
	if err := yaml.Unmarshal(raw, &members); err != nil {
		return "", err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return "", errors.New("the file is empty")
	}
	var known []string
	for _, k := range configKinds {
		if _, ok := members[k.member]; ok {
			return k.kind, k.check(raw)
		}
		known = append(known, k.kind+" ("+k.member+")")
	}
	return "", fmt.Errorf("of no known kind; one of these members tells: %s", strings.Join(known, ", "))
}
