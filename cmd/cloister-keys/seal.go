package main

import (
	"bytes"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/keys/keystore/tpmseal"
)

func newSealPassphrase() *cobra.Command {
	var device, from, out string
	var pcrs []int
	cmd := &cobra.Command{
		Use: "seal-passphrase", Short: "Seal the keystore's passphrase to this machine's TPM", Args: cobra.NoArgs,
		Long: `Seal the keystore's passphrase to this machine's TPM and to the present values of some of its PCRs, for keystore.passphraseTPM.
Keep the passphrase itself elsewhere: without it, a new mainboard or another Secure Boot configuration costs every key.`,
		Example: "  cloister-keys seal-passphrase --passphrase-file passphrase --out /etc/cloister/keystore-passphrase.sealed",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			secret, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			defer clear(secret)
			tpm, err := tpmseal.Open(device)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, tpm.Close()) }()
			sealed, err := tpmseal.Seal(tpm, pcrs, bytes.TrimSuffix(secret, []byte("\n")))
			if err != nil {
				return err
			}
			return writeNew(out, sealed)
		},
	}
	cmd.Flags().StringVar(&device, "device", tpmseal.Device, "the TPM: a device, or the socket of a software TPM")
	cmd.Flags().IntSliceVar(&pcrs, "pcrs", []int{7}, "PCRs of the SHA-256 bank; 7 is Secure Boot's state and keys")
	cmd.Flags().StringVar(&from, "passphrase-file", "", "file with the passphrase; one newline at its end does not count")
	cmd.Flags().StringVar(&out, "out", "", "file to write; it must not be there yet")
	require(cmd, "passphrase-file", "out")
	return cmd
}
