package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/keys"
)

// maxBackup bounds a backup's file, in bytes.
const maxBackup = 1 << 30

func environment() keys.Environment { return keys.Environment{Now: time.Now, Getenv: os.Getenv} }

func newBackup() *cobra.Command {
	var config, out string
	cmd := &cobra.Command{
		Use: "backup", Short: "Copy the keystore, encrypted as it is", Args: cobra.NoArgs,
		Long: `Copy the keystore to a new file. It stays encrypted under its passphrase and can be copied while keys serves. The anchor
beside the keystore must not be backed up: by it, an old copy in the keystore's place is noticed. Key material in a token is not in the copy.`,
		Example: "  cloister-keys backup --config keys.yaml --out keystore-2026-11-24",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := keys.Load(config)
			if err != nil {
				return err
			}
			raw, err := keys.Backup(c, environment())
			if err != nil {
				return err
			}
			return writeNew(out, raw)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file (YAML)")
	cmd.Flags().StringVar(&out, "out", "", "file to write; it must not be there yet")
	require(cmd, "config", "out")
	return cmd
}

// writeNew writes a file that was not there, and has it on disk.
func writeNew(path string, b []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func newRestore() *cobra.Command {
	var config, from string
	var replace bool
	cmd := &cobra.Command{
		Use: "restore", Short: "Put a backup in the keystore's place", Args: cobra.NoArgs,
		Long: `Put a backup in the keystore's place, while keys does not serve. What guest states were confirmed after the backup is not
known then, so each VM's next start is refused until its owner approves the generation that it has: cloister vm approve-restore.
The restore is in the audit log.`,
		Example: "  cloister-keys restore --config keys.yaml --from keystore-2026-11-24\n  cloister-keys restore --config keys.yaml --from keystore-2026-11-24 --replace",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := keys.Load(config)
			if err != nil {
				return err
			}
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			raw, err := io.ReadAll(io.LimitReader(f, maxBackup+1))
			if err != nil {
				return err
			}
			if len(raw) > maxBackup {
				return fmt.Errorf("%s: larger than %d bytes", from, maxBackup)
			}
			epoch, err := keys.Restore(c, environment(), raw, replace)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored; epoch %d of this keystore: each VM's next start needs its owner's approval\n", epoch)
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file (YAML)")
	cmd.Flags().StringVar(&from, "from", "", "the backup")
	cmd.Flags().BoolVar(&replace, "replace", false, "lose the keystore that is there")
	require(cmd, "config", "from")
	return cmd
}

func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag that this file defines
		}
	}
}
