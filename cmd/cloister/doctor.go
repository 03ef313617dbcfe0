package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/doctor"
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what this machine has and lacks", Args: cobra.NoArgs,
		Example: "  cloister doctor\n  cloister doctor -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			state, err := stateDir(cmd)
			if err != nil {
				return err
			}
			found := doctor.Look(doctor.ToRun(state), doctor.ToBuildImages(state))
			if o == "json" {
				if err := printJSON(cmd.OutOrStdout(), found); err != nil {
					return err
				}
				return doctor.Err(found)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, f := range found {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.State, f.Name, f.Detail, f.Mend)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return doctor.Err(found)
		},
	}
	addOutput(cmd)
	return cmd
}
