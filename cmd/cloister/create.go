package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/narrate"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/image"
)

// defaultSize is the smallest SEV-SNP size.
const defaultSize = "Standard_DC2as_v5"

func newVMCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a confidential VM", Args: cobra.ExactArgs(1),
		Long: `Create a confidential VM. The expected measurements are computed here, from files, before the VM is asked for, and
written into policies of your own: the release policy of the VM's key and your attestation policy.`,
		Example: "  cloister vm create web --size Standard_DC2as_v5 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := requestOf(cmd, args[0])
			if err != nil {
				return err
			}
			noWait, err := cmd.Flags().GetBool("no-wait")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			n := narrator(cmd.OutOrStdout())
			return create(cmd.Context(), t, r, n, !noWait)
		},
	}
	f := cmd.Flags()
	f.String("size", defaultSize, "size, with Azure's names")
	f.String("image", image.Default, "name of an image, or its folder")
	f.String("security-type", "ConfidentialVM", "only ConfidentialVM")
	f.String("os-disk-encryption", initdata.ModeDiskWithVMGuestState, "DiskWithVMGuestState, VMGuestStateOnly or NonPersistedTPM")
	f.String("encryption-set", "", "disk encryption set: the VM's disk is under your own key (see: cloister encryption-set)")
	f.String("key-service", "", "access.json of a key keeper of your own (see: cloister-keys init); it alone has the VM's key")
	f.StringArray("data-disk", nil, "data disk to attach (see: cloister disk); may be repeated, the first has LUN 0")
	f.String("zone", "", "availability zone")
	f.String("admin-user", "azureuser", "administrator's name inside the VM")
	f.String("ssh-key", "", "file with SSH public keys for the administrator")
	f.String("custom-data", "", "file that the VM gets as custom data; the host can read it")
	f.Bool("no-wait", false, "return once the request is taken")
	return cmd
}

func requestOf(cmd *cobra.Command, name string) (tenant.Request, error) {
	r := tenant.Request{Name: name}
	var sshFile, dataFile string
	for flag, to := range map[string]*string{"size": &r.Size, "image": &r.Image, "security-type": &r.SecurityType, "os-disk-encryption": &r.Encryption, "encryption-set": &r.EncryptionSet, "key-service": &r.KeyService,
		"zone": &r.Zone, "admin-user": &r.AdminUser, "ssh-key": &sshFile, "custom-data": &dataFile} {
		var err error
		if *to, err = cmd.Flags().GetString(flag); err != nil {
			return r, err
		}
	}
	var err error
	if r.DataDisks, err = cmd.Flags().GetStringArray("data-disk"); err != nil {
		return r, err
	}
	if r.KeyService != "" {
		var err error
		if r.KeyService, err = filepath.Abs(r.KeyService); err != nil { // the note of the VM keeps it
			return r, err
		}
	}
	if sshFile != "" {
		raw, err := os.ReadFile(sshFile)
		if err != nil {
			return r, usageError{fmt.Errorf("--ssh-key: %w", err)}
		}
		for _, line := range strings.Split(string(raw), "\n") {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				r.SSHKeys = append(r.SSHKeys, line)
			}
		}
		if bytes.Contains(raw, []byte("PRIVATE KEY")) {
			return r, usageError{fmt.Errorf("--ssh-key: %s holds a private key; give the public one", sshFile)}
		}
	}
	if dataFile != "" {
		raw, err := os.ReadFile(dataFile)
		if err != nil {
			return r, usageError{fmt.Errorf("--custom-data: %w", err)}
		}
		r.CustomData = raw
	}
	return r, nil
}

func narrator(out io.Writer) *narrate.Narrator {
	return &narrate.Narrator{Out: out, Live: onTerminal(), Now: time.Now}
}

// create does the whole of it and, if asked to, tells of it until the VM's distribution is up.
func create(ctx context.Context, t *tenant.Tenant, r tenant.Request, n *narrate.Narrator, wait bool) error {
	begun := time.Now()
	n.Step(begun, "expect", "started", nil)
	p, err := t.Prepare(r)
	if err != nil {
		return err
	}
	n.Step(time.Now(), "expect", "done", p.Expected.Detail())
	if err := t.Commit(ctx, p); err != nil {
		return err
	}
	asked := time.Now()
	poller, err := t.Ask(ctx, p)
	if err != nil {
		// Nothing was made; the key that waited for the VM goes too.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return errors.Join(err, t.Abandon(cleanup, p))
	}
	if !wait {
		n.Say("%s: asked for; see: cloister vm logs %s", r.Name, r.Name)
		return nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
		done <- err
	}()
	return follow(ctx, t, r.Name, n, asked, goalStep, done)
}

// goalStep is the step that ends a journey: the guest has attested itself.
const goalStep = "guest-attestation"

// errGaveUp says that the journey ended before its goal.
var errGaveUp = errors.New("the VM did not come up")

// follow tells of a VM's steps from a time on, until one of them is done or the VM has failed.
func follow(ctx context.Context, t *tenant.Tenant, name string, n *narrate.Narrator, from time.Time, goal string, operation <-chan error) error {
	told := map[string]bool{}
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		j, err := t.Journey(ctx, name)
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			for _, e := range j.Events {
				key := e.Time.String() + e.Step + e.State
				if told[key] || e.Time.Before(from.Add(-time.Second)) {
					continue
				}
				told[key] = true
				n.Step(e.Time, e.Step, e.State, e.Detail)
				switch {
				case e.Step == goal && e.State == "done":
					return nil
				case e.Step == goal && e.State == "failed":
					return evidence.Refuse(evidence.Code(e.Detail["code"]), goal, e.Detail["error"], "a step that is done")
				}
			}
			if j.Phase == "failed" && j.Failure != nil {
				return fmt.Errorf("%w: %w", errGaveUp, j.Failure)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-operation:
			if err != nil {
				return err
			}
			operation = nil // the control plane is done; the guest goes on
		case <-ticker.C:
			n.Tick()
		}
	}
}
