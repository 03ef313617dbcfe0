package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"cloister.dev/cloister/cmd/cloister/internal/doctor"
	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/cmd/cloister/internal/narrate"
	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/image"
)

// helloName is the VM that quickstart makes.
const helloName = "hello"

func newQuickstart() *cobra.Command {
	return &cobra.Command{
		Use: "quickstart", Short: "Start everything, create the VM \"hello\" and tell what happens", Args: cobra.NoArgs,
		Long: `Start the platform, build the default image if there is none, create the confidential VM "hello", restart it, and tell
of each step with its time. Run again, it changes nothing and is quick.`,
		Example: "  cloister quickstart",
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := installation(cmd)
			if err != nil {
				return err
			}
			return quickstart(cmd.Context(), cmd, i)
		},
	}
}

func quickstart(ctx context.Context, cmd *cobra.Command, i *install.Installation) error {
	out := cmd.OutOrStdout()
	begun := time.Now()
	if err := doctor.Err(doctor.Look(doctor.ToRun(i.Dir), doctor.ToBuildImages(i.Dir))); err != nil {
		return err
	}
	if _, err := image.Load(filepath.Join(i.Images(), image.Default)); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(out, "building the image %s:\n", image.Default)
		if _, err := buildImage(ctx, i, filepath.Join(i.Images(), image.Default), out); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := up(ctx, i, out); err != nil {
		return err
	}
	if err := hostsFile(out, i, false); err != nil {
		return err
	}
	conn, err := platform.Open(i.Dir)
	if err != nil {
		return err
	}
	t := tenant.New(conn, defaultGroup, i.Dir)
	n := narrator(out)
	key, err := demoKey(i.Dir)
	if err != nil {
		return err
	}
	fresh, err := ensureHello(ctx, t, n, key)
	if err != nil {
		return err
	}
	if fresh {
		if err := attestLoud(ctx, t, n); err != nil {
			return err
		}
		asked := time.Now()
		if err := setPower(ctx, t, helloName, "restart", false); err != nil {
			return err
		}
		if err := follow(ctx, t, helloName, n, asked, goalStep, nil); err != nil {
			return err
		}
	}
	if err := attestLoud(ctx, t, n); err != nil {
		return err
	}
	n.Say("\nhello is a confidential VM in software mode, and runs on. All of this took %.0f s.", time.Since(begun).Seconds())
	n.Say("What to type next:")
	program := filepath.Join(i.Programs, "cloister")
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, program); err == nil && !strings.HasPrefix(rel, "..") {
			program = rel
		}
	}
	for _, line := range [][2]string{
		{"vm ssh hello -- uname -a", "log in; the host key is the one in the evidence"},
		{"vm attest hello", "look at the evidence, check by check"},
		{"vm measure hello", "predicted against reported"},
		{"vm restart hello", "restart; the vTPM unlocks the disk again"},
		{"vm delete hello", "delete, the key first"},
	} {
		n.Say("  %-42s %s", program+" "+line[0], line[1])
	}
	n.Say("  %-42s %s", "make stop", "end the platform and its VMs")
	return nil
}

// ensureHello makes the VM, or finds it and waits until it is up. It tells whether the VM is new.
func ensureHello(ctx context.Context, t *tenant.Tenant, n *narrate.Narrator, sshKey string) (fresh bool, err error) {
	j, err := t.Journey(ctx, helloName)
	if err == nil {
		if j.Phase == "running" {
			n.Say("VM %s runs already", helloName)
			return false, untilItAnswers(ctx, t, n)
		}
		n.Say("VM %s exists and is %s; starting it", helloName, j.Phase)
		asked := time.Now()
		if err := setPower(ctx, t, helloName, "start", false); err != nil {
			return false, err
		}
		if j, err := t.Journey(ctx, helloName); err == nil && j.Phase == "running" {
			return false, nil
		}
		return false, follow(ctx, t, helloName, n, asked, goalStep, nil)
	}
	if !tenant.NotFound(err) {
		return false, err
	}
	return true, create(ctx, t, tenant.Request{Name: helloName, Size: defaultSize, Image: image.Default, SecurityType: "ConfidentialVM",
		Encryption: initdata.ModeDiskWithVMGuestState, AdminUser: "azureuser", SSHKeys: []string{sshKey}}, n, true)
}

// answerLimit is how long a VM may take to answer after a start of the platform.
const answerLimit = 10 * time.Minute

// untilItAnswers waits for a VM that the control plane remembers as running while its host is still starting it.
func untilItAnswers(ctx context.Context, t *tenant.Tenant, n *narrate.Narrator) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	for told := false; ; told = true {
		_, err := t.Attest(ctx, helloName)
		var refused *azcore.ResponseError
		if err == nil || !errors.As(err, &refused) || refused.StatusCode != http.StatusConflict {
			return err
		}
		if !told {
			n.Say("it is being started; waiting until it answers")
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Second):
		}
	}
}

// attestLoud judges the VM's evidence and tells the outcome as a step.
func attestLoud(ctx context.Context, t *tenant.Tenant, n *narrate.Narrator) error {
	n.Step(time.Now(), "judged", "started", nil)
	judged, err := t.Attest(ctx, helloName)
	if err != nil {
		return err
	}
	state := "done"
	if judged.Result.Verdict != evidence.Accepted {
		state = "failed"
	}
	met := 0
	for _, c := range judged.Result.Checks {
		if c.Result == evidence.Met {
			met++
		}
	}
	n.Step(time.Now(), "judged", state, map[string]string{"verdict": judged.Result.Verdict.String(), "root": string(judged.Result.Root),
		"checks": fmt.Sprintf("%d of %d met", met, len(judged.Result.Checks))})
	return judged.Err()
}

// demoKey is an SSH key of the quickstart's own, made once.
func demoKey(state string) (authorized string, err error) {
	path := filepath.Join(state, "hello_ed25519")
	raw, err := os.ReadFile(path + ".pub")
	if err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "cloister quickstart")
	if err != nil {
		return "", err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))) + " cloister-quickstart"
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	return line, os.WriteFile(path+".pub", []byte(line+"\n"), 0o644)
}
