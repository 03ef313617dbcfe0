// Package tenant does what a tenant does: it computes what a VM must be, writes that into policies of its own, asks
// for the VM through the Azure SDK, and judges what comes back.
package tenant

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/evidence"
)

// ExtensionVersion is the api-version of the calls that Azure does not have.
const ExtensionVersion = "2026-11-01"

// pollEvery is how often a long operation is asked about: the service is near.
const pollEvery = time.Second

// Tenant acts in one resource group.
type Tenant struct {
	Conn  *platform.Connection
	Group string
	Notes string // folder of the tenant's own notes
	Now   func() time.Time
}

// New makes a tenant that keeps its notes in a state folder.
func New(c *platform.Connection, group, state string) *Tenant {
	return &Tenant{Conn: c, Group: group, Notes: filepath.Join(state, "tenant"), Now: time.Now}
}

// Network is the one network that a VM made by the CLI is in.
const (
	network = "cloister"
	subnet  = "default"
)

// MakeGroup makes the resource group, or leaves it as it is.
func (t *Tenant) MakeGroup(ctx context.Context) error {
	groups, err := armresources.NewResourceGroupsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	if err != nil {
		return err
	}
	if _, err := groups.Get(ctx, t.Group, nil); NotFound(err) {
		if _, err := groups.CreateOrUpdate(ctx, t.Group, armresources.ResourceGroup{Location: &t.Conn.Location}, nil); err != nil {
			return fmt.Errorf("resource group %s: %w", t.Group, err)
		}
	} else if err != nil {
		return fmt.Errorf("resource group %s: %w", t.Group, err)
	}
	return nil
}

// Deployments are the SDK's clients for template deployments and their operations.
func (t *Tenant) Deployments() (*armresources.DeploymentsClient, *armresources.DeploymentOperationsClient, error) {
	all, err := armresources.NewDeploymentsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	if err != nil {
		return nil, nil, err
	}
	operations, err := armresources.NewDeploymentOperationsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	return all, operations, err
}

// EnsureGroup makes the resource group and the network, or leaves them as they are.
func (t *Tenant) EnsureGroup(ctx context.Context) (subnetID string, err error) {
	if err := t.MakeGroup(ctx); err != nil {
		return "", err
	}
	nets, err := armnetwork.NewVirtualNetworksClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	if err != nil {
		return "", err
	}
	if got, err := nets.Get(ctx, t.Group, network, nil); err == nil {
		if id, ok := subnetOf(got.VirtualNetwork); ok {
			return id, nil
		}
	} else if !NotFound(err) {
		return "", fmt.Errorf("virtual network: %w", err)
	}
	poller, err := nets.BeginCreateOrUpdate(ctx, t.Group, network, armnetwork.VirtualNetwork{
		Location: &t.Conn.Location,
		Properties: &armnetwork.VirtualNetworkPropertiesFormat{
			AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("10.20.0.0/16")}},
			Subnets:      []*armnetwork.Subnet{{Name: to.Ptr(subnet), Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: to.Ptr("10.20.0.0/24")}}},
		}}, nil)
	if err != nil {
		return "", fmt.Errorf("virtual network: %w", err)
	}
	made, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	if err != nil {
		return "", fmt.Errorf("virtual network: %w", err)
	}
	id, ok := subnetOf(made.VirtualNetwork)
	if !ok {
		return "", errors.New("virtual network: the answer holds no subnet")
	}
	return id, nil
}

func subnetOf(n armnetwork.VirtualNetwork) (string, bool) {
	if n.Properties == nil {
		return "", false
	}
	for _, s := range n.Properties.Subnets {
		if s.Name != nil && *s.Name == subnet && s.ID != nil {
			return *s.ID, true
		}
	}
	return "", false
}

// EnsureNIC makes the VM's network interface.
func (t *Tenant) EnsureNIC(ctx context.Context, vm, subnetID string) (string, error) {
	nics, err := armnetwork.NewInterfacesClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	if err != nil {
		return "", err
	}
	poller, err := nics.BeginCreateOrUpdate(ctx, t.Group, vm+"-nic", armnetwork.Interface{
		Location: &t.Conn.Location,
		Properties: &armnetwork.InterfacePropertiesFormat{IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{
			Name: to.Ptr("primary"), Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{Subnet: &armnetwork.Subnet{ID: &subnetID}, Primary: to.Ptr(true),
				PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodDynamic)}}}}}, nil)
	if err != nil {
		return "", fmt.Errorf("network interface: %w", err)
	}
	nic, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	if err != nil {
		return "", fmt.Errorf("network interface: %w", err)
	}
	if nic.ID == nil {
		return "", errors.New("network interface: the answer holds no id")
	}
	return *nic.ID, nil
}

// VMs is the SDK's client for virtual machines.
func (t *Tenant) VMs() (*armcompute.VirtualMachinesClient, error) {
	return armcompute.NewVirtualMachinesClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// DeleteVM deletes the VM and its network interface; what is gone already is no error.
func (t *Tenant) DeleteVM(ctx context.Context, name string) error {
	vms, err := t.VMs()
	if err != nil {
		return err
	}
	poller, err := vms.BeginDelete(ctx, t.Group, name, nil)
	if err == nil {
		_, err = poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	}
	if err != nil && !NotFound(err) {
		return fmt.Errorf("deleting VM %s: %w", name, err)
	}
	nics, err := armnetwork.NewInterfacesClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
	if err != nil {
		return err
	}
	del, err := nics.BeginDelete(ctx, t.Group, name+"-nic", nil)
	if err == nil {
		_, err = del.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	}
	if err != nil && !NotFound(err) {
		return fmt.Errorf("deleting the network interface: %w", err)
	}
	return nil
}

// NotFound tells a resource that is not there from one that can't be read.
func NotFound(err error) bool {
	var r *azcore.ResponseError
	return errors.As(err, &r) && r.StatusCode == http.StatusNotFound
}

// Event is a step of a VM's journey, as the platform tells it.
type Event struct {
	Time   time.Time         `json:"time"`
	Step   string            `json:"step"`
	State  string            `json:"state"`
	Detail map[string]string `json:"detail"`
}

// Journey is what the platform says of a VM's way. It is the operator's word; the tenant judges evidence.
type Journey struct {
	Events          []Event           `json:"events"`
	Phase           string            `json:"phase"`
	SSHEndpoint     string            `json:"sshEndpoint"`
	OperatorTrusted bool              `json:"operatorTrusted"`
	Failure         *evidence.Refusal `json:"failure"`
	Notes           []string          `json:"notes"`
}

// Journey reads the steps so far.
func (t *Tenant) Journey(ctx context.Context, vm string) (*Journey, error) {
	var j Journey
	return &j, t.extension(ctx, http.MethodGet, vm, "journey", nil, &j)
}

// Evidence asks the VM for evidence that answers to a nonce. The reply is an evidence bundle, still unjudged.
func (t *Tenant) Evidence(ctx context.Context, vm string, nonce []byte) (json.RawMessage, error) {
	var raw json.RawMessage
	err := t.extension(ctx, http.MethodPost, vm, "attest", map[string]string{"nonce": base64.StdEncoding.EncodeToString(nonce)}, &raw)
	return raw, err
}

// Console reads the last bytes that the VM printed.
func (t *Tenant) Console(ctx context.Context, vm string) ([]byte, error) {
	var out []byte
	return out, t.extension(ctx, http.MethodGet, vm, "console", nil, &out)
}

// MetadataAnswer is what a VM's metadata service answers.
type MetadataAnswer struct {
	Status      int    `json:"status"`
	ContentType string `json:"contentType"`
	Body        []byte `json:"body"`
}

// Metadata asks a VM's metadata service in its place; identity tokens are not given.
func (t *Tenant) Metadata(ctx context.Context, vm, path string) (*MetadataAnswer, error) {
	var a MetadataAnswer
	return &a, t.extension(ctx, http.MethodPost, vm, "metadata", map[string]string{"path": path}, &a)
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 8 << 20

func (t *Tenant) extension(ctx context.Context, method, vm, call string, in, out any) error {
	target := fmt.Sprintf("%s/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/virtualMachines/%s/%s?api-version=%s",
		t.Conn.ARMEndpoint, url.PathEscape(t.Conn.SubscriptionID), url.PathEscape(t.Group), url.PathEscape(vm), call, ExtensionVersion)
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	bearer, err := t.Conn.Bearer(ctx, t.Conn.ARMEndpoint)
	if err != nil {
		return fmt.Errorf("signing in: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.Conn.HTTP().Do(req)
	if err != nil {
		return fmt.Errorf("%s of VM %s: %w", call, vm, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of VM %s: %w", call, vm, runtime.NewResponseError(resp))
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s of VM %s: %w", call, vm, err)
	}
	if text, ok := out.(*[]byte); ok {
		*text = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s of VM %s: %w", call, vm, err)
	}
	return nil
}
