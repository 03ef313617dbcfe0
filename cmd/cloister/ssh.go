package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"cloister.dev/cloister/evidence"
)

func newVMSSH() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh NAME [-- COMMAND…]", Short: "Log in to a VM, to the very host key that it attested", Args: cobra.MinimumNArgs(1),
		Long: `Log in to a VM. Its evidence is judged first; the SSH host key must be the one whose digest is in the evidence, so
that nobody can stand in between.`,
		Example: "  cloister vm ssh web\n  cloister vm ssh web --user azureuser --identity ~/.ssh/id_ed25519 -- uname -a",
		RunE: func(cmd *cobra.Command, args []string) error {
			user, err := cmd.Flags().GetString("user")
			if err != nil {
				return err
			}
			identity, err := cmd.Flags().GetString("identity")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			j, err := t.Attest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := j.Err(); err != nil {
				return fmt.Errorf("not logging in to a VM whose evidence is refused: %w", err)
			}
			journey, err := t.Journey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if journey.SSHEndpoint == "" {
				return evidence.Refuse(evidence.CodeUnavailable, "SSH endpoint", "none", "a running VM")
			}
			state, err := stateDir(cmd)
			if err != nil {
				return err
			}
			if identity == "" && args[0] == helloName {
				identity = filepath.Join(state, "hello_ed25519")
			}
			hostKey, err := ssh.ParsePublicKey(j.Bundle.SSHHostKey)
			if err != nil {
				return evidence.Refuse(evidence.CodeParse, "attested SSH host key", err.Error(), "a public key")
			}
			return runSSH(cmd, journey.SSHEndpoint, hostKey, user, identity, args[1:])
		},
	}
	cmd.Flags().String("user", "azureuser", "user inside the VM")
	cmd.Flags().String("identity", "", "private key file (default: ssh's own; for \"hello\" the quickstart's)")
	return cmd
}

// sshDial is how long the VM's SSH server may take to show its key, under emulation.
const sshDial = 60 * time.Second

// runSSH starts ssh with a known-hosts file that holds the attested key and nothing else.
func runSSH(cmd *cobra.Command, endpoint string, attested ssh.PublicKey, user, identity string, command []string) error {
	if err := sameHostKey(endpoint, attested); err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("ssh is missing: apt-get install openssh-client")
	}
	dir, err := os.MkdirTemp("", "cloister-ssh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	known := filepath.Join(dir, "known_hosts")
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return err
	}
	if err := os.WriteFile(known, []byte(knownhosts.Line([]string{endpoint}, attested)+"\n"), 0o600); err != nil {
		return err
	}
	args := []string{"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no",
		"-o", "ConnectTimeout=60", "-p", port}
	if identity != "" {
		args = append(args, "-i", identity, "-o", "IdentitiesOnly=yes")
	}
	args = append(args, user+"@"+host)
	c := exec.CommandContext(cmd.Context(), program, append(args, command...)...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, cmd.OutOrStdout(), os.Stderr
	return c.Run()
}

// sameHostKey looks at the key that the endpoint shows, for a refusal that says what is wrong; ssh checks it again.
func sameHostKey(endpoint string, attested ssh.PublicKey) error {
	var shown ssh.PublicKey
	errSeen := errors.New("seen")
	conn, err := net.DialTimeout("tcp", endpoint, sshDial)
	if err != nil {
		return evidence.Refuse(evidence.CodeUnavailable, "SSH endpoint "+endpoint, err.Error(), "an SSH server")
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(sshDial)); err != nil {
		return err
	}
	_, _, _, err = ssh.NewClientConn(conn, endpoint, &ssh.ClientConfig{User: "cloister", HostKeyAlgorithms: []string{attested.Type()},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { shown = key; return errSeen }})
	if shown == nil {
		return evidence.Refuse(evidence.CodeUnavailable, "SSH endpoint "+endpoint, fmt.Sprint(err), "an SSH server")
	}
	if !bytes.Equal(shown.Marshal(), attested.Marshal()) {
		return evidence.Refuse(evidence.CodeBinding, "SSH host key", ssh.FingerprintSHA256(shown), ssh.FingerprintSHA256(attested)+", as attested")
	}
	return nil
}
