package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/compute/template"
)

func newDeployment() *cobra.Command {
	cmd := &cobra.Command{
		Use: "deployment", Short: "Template deployments: networks and VMs as an ARM template says",
		Example: "  cloister deployment validate -g web --template-file vm.json --parameters name=web\n  cloister deployment create -g web --template-file vm.json --parameters name=web",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newDeploymentCreate(), newDeploymentValidate(), newDeploymentShow(), newDeploymentList(), newDeploymentDelete())
	return cmd
}

// notValid is what validation said of a template.
type notValid struct{ *armresources.ErrorResponse }

func (e notValid) Error() string {
	said := text(e.Code) + ": " + text(e.Message)
	if e.Target != nil {
		said += " (" + *e.Target + ")"
	}
	for _, d := range e.Details {
		said += "\n  " + strings.ReplaceAll(notValid{d}.Error(), "\n", "\n  ")
	}
	return said
}

func addTemplate(cmd *cobra.Command) {
	cmd.Flags().StringP("template-file", "f", "", "the template: JSON, comments allowed")
	cmd.Flags().StringArrayP("parameters", "p", nil, "a parameter file, or NAME=VALUE, or NAME=@FILE for the text of a file; may be repeated, the last counts")
	cmd.Flags().StringP("name", "n", "", "name of the deployment (default: that of the template file)")
	required(cmd, "template-file")
	addOutput(cmd)
}

// readTemplate reads the files that the flags name, and checks what can be checked without a platform.
func readTemplate(cmd *cobra.Command) (name string, d armresources.Deployment, err error) {
	file, err := cmd.Flags().GetString("template-file")
	if err != nil {
		return "", d, err
	}
	given, err := cmd.Flags().GetStringArray("parameters")
	if err != nil {
		return "", d, err
	}
	if name, err = cmd.Flags().GetString("name"); err != nil {
		return "", d, err
	}
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", d, usageError{fmt.Errorf("--template-file: %w", err)}
	}
	t, err := template.Parse(raw)
	if err != nil {
		return "", d, err
	}
	doc, err := template.Read(raw)
	if err != nil {
		return "", d, err
	}
	values, err := parameterValues(t.Kinds(), given)
	if err != nil {
		return "", d, usageError{err}
	}
	d.Properties = &armresources.DeploymentProperties{Mode: to.Ptr(armresources.DeploymentModeIncremental), Template: json.RawMessage(template.JSON(doc)), Parameters: values}
	return name, d, nil
}

// parameterValues reads what --parameters names. A value on the command line gets the type that the template gives it.
func parameterValues(kinds map[string]string, given []string) (map[string]any, error) {
	out := map[string]any{}
	for _, g := range given {
		name, value, assigned := strings.Cut(g, "=")
		if !assigned || strings.HasPrefix(g, "@") {
			if err := readParameters(strings.TrimPrefix(g, "@"), out); err != nil {
				return nil, err
			}
			continue
		}
		kind, known := "", []string{}
		for k, typ := range kinds {
			known = append(known, k)
			if strings.EqualFold(k, name) {
				name, kind = k, typ
			}
		}
		if kind == "" {
			slices.Sort(known)
			return nil, fmt.Errorf("--parameters: the template has no parameter %q; it has: %s", name, strings.Join(known, ", "))
		}
		if path, is := strings.CutPrefix(value, "@"); is {
			raw, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("--parameters %s: %w", name, err)
			}
			value = string(raw)
		}
		v, err := typedValue(kind, value)
		if err != nil {
			return nil, fmt.Errorf("--parameters %s: %w", name, err)
		}
		out[name] = map[string]any{"value": v}
	}
	return out, nil
}

func readParameters(path string, into map[string]any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--parameters: %w", err)
	}
	v, err := template.Read(raw)
	if err != nil {
		return fmt.Errorf("--parameters %s: %w", path, err)
	}
	doc, ok := v.(map[string]any)
	if ok {
		if inner, is := doc["parameters"]; is {
			doc, ok = inner.(map[string]any)
		}
	}
	if !ok {
		return fmt.Errorf(`--parameters %s: want an object with the member "parameters"`, path)
	}
	for name, value := range doc {
		into[name] = value
	}
	return nil
}

// typedValue never puts the value into its error: it may be a secret.
func typedValue(kind, value string) (any, error) {
	switch kind {
	case "int":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, errors.New("want an integer")
		}
		return n, nil
	case "bool":
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, errors.New("want true or false")
		}
		return b, nil
	case "object", "secureobject", "array":
		v, err := template.Read([]byte(value))
		if err != nil {
			return nil, errors.New("want JSON of type " + kind)
		}
		return v, nil
	}
	return value, nil
}

func deploymentsOf(cmd *cobra.Command) (*tenant.Tenant, *armresources.DeploymentsClient, *armresources.DeploymentOperationsClient, error) {
	t, err := tenantOf(cmd)
	if err != nil {
		return nil, nil, nil, err
	}
	all, operations, err := t.Deployments()
	return t, all, operations, err
}

// withTemplate is a command about a template: its flags are read, and what can be checked without a platform, before one is called.
func withTemplate(do func(cmd *cobra.Command, format string, t *tenant.Tenant, all *armresources.DeploymentsClient, name string, d armresources.Deployment) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		o, err := output(cmd)
		if err != nil {
			return err
		}
		name, d, err := readTemplate(cmd)
		if err != nil {
			return err
		}
		t, all, _, err := deploymentsOf(cmd)
		if err != nil {
			return err
		}
		return do(cmd, o, t, all, name, d)
	}
}

func newDeploymentCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Deploy a template into a resource group", Args: cobra.NoArgs,
		Long: `Deploy a template into a resource group, which is made if it is not there. What the template does not name stays as it is.
The values of secure parameters are in the control plane's memory while it deploys, and are neither stored nor shown.`,
		Example: "  cloister deployment create -g web --template-file vm.json --parameters name=web --parameters sshKey=@id.pub\n  cloister deployment create -f vm.json -p vm.parameters.json -o json",
		RunE: withTemplate(func(cmd *cobra.Command, o string, t *tenant.Tenant, all *armresources.DeploymentsClient, name string, d armresources.Deployment) error {
			if err := t.MakeGroup(cmd.Context()); err != nil {
				return err
			}
			var made armresources.DeploymentExtended
			err := withProgress(cmd, name+": deploy", func(ctx context.Context) error {
				p, err := all.BeginCreateOrUpdate(ctx, t.Group, name, d, nil)
				if err != nil {
					return err
				}
				got, err := p.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
				made = got.DeploymentExtended
				return err
			})
			if err != nil {
				return err
			}
			return printDeployment(cmd, o, t.Group, made)
		}),
	}
	addTemplate(cmd)
	return cmd
}

func newDeploymentValidate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "validate", Short: "Check a template, and whether you may deploy it; nothing is made", Args: cobra.NoArgs,
		Example: "  cloister deployment validate -g web --template-file vm.json --parameters name=web",
		RunE: withTemplate(func(cmd *cobra.Command, o string, t *tenant.Tenant, all *armresources.DeploymentsClient, name string, d armresources.Deployment) error {
			p, err := all.BeginValidate(cmd.Context(), t.Group, name, d, nil)
			if err != nil {
				return err
			}
			got, err := p.PollUntilDone(cmd.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
			if err != nil {
				return err
			}
			if got.Error != nil {
				return notValid{got.Error}
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), got.DeploymentValidateResult)
			}
			if got.Properties != nil {
				for _, r := range got.Properties.ValidatedResources {
					fmt.Fprintln(cmd.OutOrStdout(), text(r.ID))
				}
			}
			return nil
		}),
	}
	addTemplate(cmd)
	return cmd
}

func newDeploymentShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a deployment, its resources and outputs", Args: cobra.ExactArgs(1), Example: "  cloister deployment show vm -g web",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			t, all, _, err := deploymentsOf(cmd)
			if err != nil {
				return err
			}
			d, err := all.Get(cmd.Context(), t.Group, args[0], nil)
			if err != nil {
				return err
			}
			return printDeployment(cmd, o, t.Group, d.DeploymentExtended)
		},
	}
	addOutput(cmd)
	return cmd
}

// printDeployment also lists what became of each resource.
func printDeployment(cmd *cobra.Command, format, group string, d armresources.DeploymentExtended) error {
	if format == "json" {
		return printJSON(cmd.OutOrStdout(), d)
	}
	_, _, operations, err := deploymentsOf(cmd)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "RESOURCE\tTYPE\tSTATE")
	for pages := operations.NewListPager(group, text(d.Name), nil); pages.More(); {
		page, err := pages.NextPage(cmd.Context())
		if err != nil {
			return err
		}
		for _, op := range page.Value {
			if p := op.Properties; p != nil && p.TargetResource != nil {
				fmt.Fprintf(w, "%s\t%s\t%s\n", text(p.TargetResource.ResourceName), text(p.TargetResource.ResourceType), text(p.ProvisioningState))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if d.Properties == nil {
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", text(d.Name), text(d.Properties.ProvisioningState))
	if d.Properties.Error != nil {
		fmt.Fprintln(cmd.OutOrStdout(), notValid{d.Properties.Error}.Error())
	}
	return printOutputs(cmd.OutOrStdout(), d.Properties.Outputs)
}

func printOutputs(out io.Writer, outputs any) error {
	all, _ := outputs.(map[string]any)
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		o, _ := all[name].(map[string]any)
		v, shown := o["value"]
		if !shown {
			v = "(secure)"
		}
		if s, ok := v.(string); ok {
			fmt.Fprintf(out, "%s = %s\n", name, s)
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s = %s\n", name, raw)
	}
	return nil
}

func newDeploymentList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the deployments of a resource group", Args: cobra.NoArgs, Example: "  cloister deployment list -g web -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			t, all, _, err := deploymentsOf(cmd)
			if err != nil {
				return err
			}
			rows := []*armresources.DeploymentExtended{}
			for pages := all.NewListByResourceGroupPager(t.Group, nil); pages.More(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				rows = append(rows, page.Value...)
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tENDED")
			for _, d := range rows {
				if p := d.Properties; p != nil && p.Timestamp != nil {
					fmt.Fprintf(w, "%s\t%s\t%s\n", text(d.Name), text(p.ProvisioningState), p.Timestamp.Local().Format(time.DateTime))
				}
			}
			return w.Flush()
		},
	}
	addOutput(cmd)
	return cmd
}

func newDeploymentDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a deployment; what it made stays", Args: cobra.ExactArgs(1), Example: "  cloister deployment delete vm -g web",
		RunE: func(cmd *cobra.Command, args []string) error {
			t, all, _, err := deploymentsOf(cmd)
			if err != nil {
				return err
			}
			p, err := all.BeginDelete(cmd.Context(), t.Group, args[0], nil)
			if err != nil {
				return err
			}
			_, err = p.PollUntilDone(cmd.Context(), nil)
			return err
		},
	}
}
