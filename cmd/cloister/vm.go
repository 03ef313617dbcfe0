package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

// defaultGroup is the resource group that the CLI uses when none is named.
const defaultGroup = "cloister"

func newVM() *cobra.Command {
	cmd := &cobra.Command{
		Use: "vm", Short: "Create, look at, judge and delete confidential VMs",
		Example: "  cloister vm create web --size Standard_DC2as_v5 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub\n  cloister vm attest web",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newVMCreate(), newVMList(), newVMShow(), newVMDelete(), newVMConsole(), newVMLogs(), newVMSSH(), newVMAttest(), newVMMeasure(), newVMMetadata(), newVMInitData(), newVMRewrap(), newVMApproveRestore(), newVMDisk())
	for _, p := range []powerCommand{
		{"start", "Start a VM", "starts; a VM that runs is left alone"},
		{"stop", "Shut a VM down; it keeps its cores", "shuts down in order, as if the power button was pressed"},
		{"restart", "Restart a VM", "shuts down and starts anew, with fresh evidence"},
		{"deallocate", "Shut a VM down and give its cores back", "keeps only its disks and guest state"},
	} {
		cmd.AddCommand(p.command())
	}
	return cmd
}

// tenantOf opens the connection of the command's state folder.
func tenantOf(cmd *cobra.Command) (*tenant.Tenant, error) {
	state, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	conn, err := platform.Open(state)
	if err != nil {
		return nil, err
	}
	group, err := cmd.Flags().GetString("resource-group")
	if err != nil {
		return nil, err
	}
	return tenant.New(conn, group, state), nil
}

type powerCommand struct{ verb, short, does string }

func (p powerCommand) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: p.verb + " NAME", Short: p.short, Long: p.short + ": " + p.does + ".", Args: cobra.ExactArgs(1),
		Example: "  cloister vm " + p.verb + " web",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			noWait, err := cmd.Flags().GetBool("no-wait")
			if err != nil {
				return err
			}
			return withProgress(cmd, args[0]+": "+p.verb, func(ctx context.Context) error { return setPower(ctx, t, args[0], p.verb, !noWait) })
		}),
	}
	cmd.Flags().Bool("no-wait", false, "return once the request is taken")
	return cmd
}

// waiter is what all of the SDK's pollers share.
type waiter interface {
	PollUntilDone(context.Context, *runtime.PollUntilDoneOptions) error
}

type pollerOf[T any] struct{ p *runtime.Poller[T] }

func (w pollerOf[T]) PollUntilDone(ctx context.Context, o *runtime.PollUntilDoneOptions) error {
	_, err := w.p.PollUntilDone(ctx, o)
	return err
}

func setPower(ctx context.Context, t *tenant.Tenant, name, verb string, wait bool) error {
	vms, err := t.VMs()
	if err != nil {
		return err
	}
	var w waiter
	switch verb {
	case "start":
		p, e := vms.BeginStart(ctx, t.Group, name, nil)
		w, err = pollerOf[armcompute.VirtualMachinesClientStartResponse]{p}, e
	case "stop":
		p, e := vms.BeginPowerOff(ctx, t.Group, name, nil)
		w, err = pollerOf[armcompute.VirtualMachinesClientPowerOffResponse]{p}, e
	case "restart":
		p, e := vms.BeginRestart(ctx, t.Group, name, nil)
		w, err = pollerOf[armcompute.VirtualMachinesClientRestartResponse]{p}, e
	case "deallocate":
		p, e := vms.BeginDeallocate(ctx, t.Group, name, nil)
		w, err = pollerOf[armcompute.VirtualMachinesClientDeallocateResponse]{p}, e
	default:
		return fmt.Errorf("no power state %q", verb)
	}
	if err != nil || !wait {
		return err
	}
	return w.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
}

// withProgress shows, on a terminal, that something longer goes on.
func withProgress(cmd *cobra.Command, what string, do func(context.Context) error) error {
	if !onTerminal() {
		return do(cmd.Context())
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				fmt.Fprint(os.Stderr, "\r\x1b[K")
				return
			case <-time.After(500 * time.Millisecond):
				fmt.Fprintf(os.Stderr, "\r\x1b[K… %s, %.0f s", what, time.Since(begun).Seconds())
			}
		}
	}()
	err := do(cmd.Context())
	close(done)
	<-stopped
	return err
}

// vmRow is a VM in lists.
type vmRow struct {
	Name         string   `json:"name"`
	Size         string   `json:"size"`
	SecurityType string   `json:"securityType"`
	Encryption   string   `json:"osDiskEncryption"`
	Power        string   `json:"power"`
	Provisioning string   `json:"provisioningState"`
	VMID         string   `json:"vmId"`
	Statuses     []string `json:"statuses,omitempty"`
}

func text[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

func rowOf(vm armcompute.VirtualMachine) vmRow {
	r := vmRow{Name: text(vm.Name)}
	p := vm.Properties
	if p == nil {
		return r
	}
	r.Provisioning, r.VMID = text(p.ProvisioningState), text(p.VMID)
	if p.HardwareProfile != nil {
		r.Size = text(p.HardwareProfile.VMSize)
	}
	if p.SecurityProfile != nil {
		r.SecurityType = text(p.SecurityProfile.SecurityType)
	}
	if s := p.StorageProfile; s != nil && s.OSDisk != nil && s.OSDisk.ManagedDisk != nil && s.OSDisk.ManagedDisk.SecurityProfile != nil {
		r.Encryption = text(s.OSDisk.ManagedDisk.SecurityProfile.SecurityEncryptionType)
	}
	if p.InstanceView != nil {
		for _, s := range p.InstanceView.Statuses {
			code := text(s.Code)
			r.Statuses = append(r.Statuses, code)
			if power, ok := strings.CutPrefix(code, "PowerState/"); ok {
				r.Power = power
			}
		}
	}
	return r
}

func newVMList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List VMs", Args: cobra.NoArgs, Example: "  cloister vm list -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, _ []string, o string) error {
			vms, err := t.VMs()
			if err != nil {
				return err
			}
			rows := []vmRow{}
			for pages := vms.NewListPager(t.Group, nil); pages.More(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				for _, vm := range page.Value {
					view, err := vms.InstanceView(cmd.Context(), t.Group, text(vm.Name), nil)
					if err == nil && vm.Properties != nil {
						vm.Properties.InstanceView = &view.VirtualMachineInstanceView
					}
					rows = append(rows, rowOf(*vm))
				}
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPOWER\tSIZE\tENCRYPTION\tVM ID")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Power, r.Size, r.Encryption, r.VMID)
			}
			return w.Flush()
		}),
	}
	addOutput(cmd)
	return cmd
}

func newVMShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a VM and how it stands", Args: cobra.ExactArgs(1), Example: "  cloister vm show web",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			vms, err := t.VMs()
			if err != nil {
				return err
			}
			expand := armcompute.InstanceViewTypesInstanceView
			vm, err := vms.Get(cmd.Context(), t.Group, args[0], &armcompute.VirtualMachinesClientGetOptions{Expand: &expand})
			if err != nil {
				return err
			}
			j, err := t.Journey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r := rowOf(vm.VirtualMachine)
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), struct {
					vmRow
					Journey *tenant.Journey `json:"journey"`
				}{r, j})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, line := range [][2]string{{"name", r.Name}, {"vm id", r.VMID}, {"size", r.Size}, {"security type", r.SecurityType}, {"os disk encryption", r.Encryption},
				{"provisioning", r.Provisioning}, {"power", r.Power}, {"phase", j.Phase}, {"ssh", j.SSHEndpoint}, {"operator-trusted", fmt.Sprint(j.OperatorTrusted)}} {
				fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
			}
			for _, n := range j.Notes {
				fmt.Fprintf(w, "note\t%s\n", n)
			}
			if j.Failure != nil {
				fmt.Fprintf(w, "failure\t%s\n", j.Failure.Error())
			}
			return w.Flush()
		}),
	}
	addOutput(cmd)
	return cmd
}

func newVMDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a VM: its key first, then everything else", Args: cobra.ExactArgs(1), Example: "  cloister vm delete web",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			return withProgress(cmd, args[0]+": delete", func(ctx context.Context) error { return t.Delete(ctx, args[0]) })
		}),
	}
}

func newVMConsole() *cobra.Command {
	return &cobra.Command{
		Use: "console NAME", Short: "Print the last of what a VM wrote to its serial console", Args: cobra.ExactArgs(1), Example: "  cloister vm console web",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			raw, err := t.Console(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}),
	}
}

func newVMLogs() *cobra.Command {
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print the steps of a VM's journey", Args: cobra.ExactArgs(1), Example: "  cloister vm logs web\n  cloister vm logs web -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			j, err := t.Journey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), j.Events)
			}
			for _, e := range j.Events {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-18s %-8s %s\n", e.Time.Local().Format("15:04:05.000"), e.Step, e.State, details(e.Detail))
			}
			return nil
		}),
	}
	addOutput(cmd)
	return cmd
}
