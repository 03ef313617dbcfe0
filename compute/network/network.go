// Package network keeps virtual networks, their subnets, and network interfaces: enough for VMs to have addresses.
//
// An address is taken in the transaction that writes the interface.
package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

// Resource types.
const (
	VNetType   = "Microsoft.Network/virtualNetworks"
	SubnetType = VNetType + "/subnets"
	NICType    = "Microsoft.Network/networkInterfaces"
)

var (
	afterVNet = failpoint.New("compute/vnet-written")
	afterNIC  = failpoint.New("compute/nic-written")
)

// VNet is a virtual network with its subnets.
type VNet struct {
	Meta     tracked.Meta `json:"meta"`
	Prefixes []string     `json:"prefixes"` // CIDR
	Subnets  []Subnet     `json:"subnets"`
}

// Subnet is a part of a network.
type Subnet struct {
	Name   string            `json:"name"`
	Prefix string            `json:"prefix"` // CIDR
	Used   map[string]string `json:"used"`   // address → key of the interface
}

// NIC is a network interface with one IPv4 configuration.
type NIC struct {
	Meta       tracked.Meta `json:"meta"`
	ConfigName string       `json:"configName"`
	Subnet     arm.ID       `json:"subnet"`
	Prefix     string       `json:"prefix"` // of the subnet
	Address    string       `json:"address"`
	Static     bool         `json:"static"`
	MAC        string       `json:"mac"`          // 12 hex digits, upper case
	VM         string       `json:"vm,omitempty"` // id of the VM that uses it
}

// Service serves them.
type Service struct {
	DB       *store.DB
	VNets    store.Store[VNet]
	NICs     store.Store[NIC]
	Groups   *resources.Groups
	Location string
	Now      func() time.Time
}

func (s *Service) vnets() tracked.Kind[VNet] {
	return tracked.Kind[VNet]{Type: VNetType, Store: s.VNets, Meta: func(v *VNet) *tracked.Meta { return &v.Meta },
		Render: func(_ context.Context, v VNet, _ *arm.Request) (any, error) { return v.wire(), nil }}
}

func (s *Service) nics() tracked.Kind[NIC] {
	return tracked.Kind[NIC]{Type: NICType, Store: s.NICs, Meta: func(v *NIC) *tracked.Meta { return &v.Meta },
		Render: func(_ context.Context, v NIC, _ *arm.Request) (any, error) { return v.wire(), nil }}
}

// Routes of all three kinds.
func (s *Service) Routes() []arm.Route {
	const prefix = "/subscriptions/{sub}/resourceGroups/{group}/providers/"
	const subnet = prefix + VNetType + "/{parent}/subnets"
	routes := append(s.vnets().Routes(), s.vnets().TagsRoute())
	routes = append(routes, s.nics().Routes()...)
	return append(routes, s.nics().TagsRoute(),
		arm.Route{Method: http.MethodPut, Pattern: prefix + VNetType + "/{name}", Action: VNetType + "/write", Handle: s.putVNet},
		arm.Route{Method: http.MethodDelete, Pattern: prefix + VNetType + "/{name}", Action: VNetType + "/delete", Handle: s.deleteVNet},
		arm.Route{Method: http.MethodPut, Pattern: subnet + "/{name}", Action: SubnetType + "/write", Handle: s.putSubnet},
		arm.Route{Method: http.MethodGet, Pattern: subnet + "/{name}", Action: SubnetType + "/read", Handle: s.getSubnet},
		arm.Route{Method: http.MethodGet, Pattern: subnet, Action: SubnetType + "/read", Handle: s.listSubnets},
		arm.Route{Method: http.MethodDelete, Pattern: subnet + "/{name}", Action: SubnetType + "/delete", Handle: s.deleteSubnet},
		arm.Route{Method: http.MethodPut, Pattern: prefix + NICType + "/{name}", Action: NICType + "/write", Handle: s.putNIC},
		arm.Route{Method: http.MethodDelete, Pattern: prefix + NICType + "/{name}", Action: NICType + "/delete", Handle: s.deleteNIC},
	)
}

func etag(e string) string { return `W/"` + e + `"` }

func (v VNet) wire() any {
	subnets := []any{}
	for _, sn := range v.Subnets {
		subnets = append(subnets, v.wireSubnet(sn))
	}
	out := v.Meta.Wire(map[string]any{
		"provisioningState": "Succeeded", "resourceGuid": v.Meta.Etag, "addressSpace": map[string]any{"addressPrefixes": v.Prefixes},
		"subnets": subnets, "virtualNetworkPeerings": []any{}, "enableDdosProtection": false})
	out["etag"] = etag(v.Meta.Etag)
	return out
}

func (v VNet) subnetID(name string) arm.ID {
	id := v.Meta.ID
	id.Type, id.Name = SubnetType, id.Name+"/"+name
	return id
}

func (v VNet) wireSubnet(sn Subnet) any {
	used := []any{}
	for _, nic := range sn.Used {
		used = append(used, map[string]any{"id": nic + "/ipConfigurations/primary"})
	}
	p := map[string]any{"provisioningState": "Succeeded", "addressPrefix": sn.Prefix, "delegations": []any{},
		"privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled"}
	if len(used) > 0 {
		p["ipConfigurations"] = used
	}
	return map[string]any{"id": v.subnetID(sn.Name).String(), "name": sn.Name, "type": SubnetType, "etag": etag(v.Meta.Etag), "properties": p}
}

func (n NIC) wire() any {
	method := "Dynamic"
	if n.Static {
		method = "Static"
	}
	p := map[string]any{
		"provisioningState": "Succeeded", "resourceGuid": n.Meta.Etag, "macAddress": n.MAC[0:2] + "-" + n.MAC[2:4] + "-" + n.MAC[4:6] + "-" + n.MAC[6:8] + "-" + n.MAC[8:10] + "-" + n.MAC[10:12],
		"primary": true, "enableAcceleratedNetworking": false, "enableIPForwarding": false, "nicType": "Standard",
		"dnsSettings": map[string]any{"dnsServers": []any{}, "appliedDnsServers": []any{}},
		"ipConfigurations": []any{map[string]any{"id": n.Meta.ID.String() + "/ipConfigurations/" + n.ConfigName, "name": n.ConfigName,
			"type": NICType + "/ipConfigurations", "properties": map[string]any{
				"provisioningState": "Succeeded", "privateIPAddress": n.Address, "privateIPAllocationMethod": method, "privateIPAddressVersion": "IPv4",
				"primary": true, "subnet": map[string]any{"id": n.Subnet.String()}}}}}
	if n.VM != "" {
		p["virtualMachine"] = map[string]any{"id": n.VM}
	}
	out := n.Meta.Wire(p)
	out["etag"] = etag(n.Meta.Etag)
	return out
}

var subnetProperties = arm.Shape{"addressPrefix": arm.Text, "provisioningState": arm.ReadOnly, "ipConfigurations": arm.ReadOnly, "delegations": arm.List(arm.Shape{}),
	"privateEndpointNetworkPolicies": arm.OneOf("Disabled"), "privateLinkServiceNetworkPolicies": arm.OneOf("Enabled"), "purpose": arm.ReadOnly,
	"defaultOutboundAccess": arm.Flag}

var subnetShape = arm.Shape{"id": arm.ReadOnly, "name": arm.Text, "type": arm.ReadOnly, "etag": arm.ReadOnly, "properties": arm.Object(subnetProperties)}

type subnetBody struct {
	Name       string `json:"name"`
	Properties struct {
		Prefix string `json:"addressPrefix"`
	} `json:"properties"`
}

var vnetShape = arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "etag": arm.ReadOnly, "location": arm.Text, "tags": arm.Free,
	"properties": arm.Object(arm.Shape{
		"addressSpace": arm.Object(arm.Shape{"addressPrefixes": arm.Free}), "subnets": arm.List(subnetShape), "enableDdosProtection": arm.OneOf(),
		"provisioningState": arm.ReadOnly, "resourceGuid": arm.ReadOnly, "virtualNetworkPeerings": arm.List(arm.Shape{}),
		"privateEndpointVNetPolicies": arm.OneOf("Disabled"), "dhcpOptions": arm.Object(arm.Shape{})})}

type vnetBody struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		AddressSpace struct {
			Prefixes []string `json:"addressPrefixes"`
		} `json:"addressSpace"`
		Subnets *[]subnetBody `json:"subnets"`
	} `json:"properties"`
}

func invalid(target, format string, args ...any) *arm.Error {
	return arm.Errorf(http.StatusBadRequest, "InvalidRequestFormat", format, args...).At(target)
}

func (s *Service) where(location string) error {
	switch {
	case location == "":
		return arm.Errorf(http.StatusBadRequest, "LocationRequired", "The location property is required for this definition.").At("location")
	case arm.Location(location) != s.Location:
		return arm.Errorf(http.StatusBadRequest, "LocationNotAvailableForResourceType", "The provided location '%s' is not available for this resource type. List of available regions is '%s'.", location, s.Location).At("location")
	}
	return nil
}

func (s *Service) putVNet(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body vnetBody
	if err := arm.Decode(r.Body, vnetShape, &body); err != nil {
		return nil, err
	}
	if err := errors.Join(s.where(body.Location), tracked.CheckTags(body.Tags)); err != nil {
		return nil, err
	}
	return s.writeVNet(ctx, r, r.ID(), func(v *VNet) (any, error) {
		v.Meta.Tags, v.Prefixes = body.Tags, body.Properties.AddressSpace.Prefixes
		if body.Properties.Subnets != nil {
			old := v.Subnets
			v.Subnets = nil
			for _, b := range *body.Properties.Subnets {
				v.Subnets = append(v.Subnets, Subnet{Name: b.Name, Prefix: b.Properties.Prefix, Used: usedOf(old, b.Name)})
			}
			for _, sn := range old {
				if len(sn.Used) > 0 && v.find(sn.Name) == nil {
					return nil, inUse(v.subnetID(sn.Name))
				}
			}
		}
		return v, v.check()
	})
}

func usedOf(list []Subnet, name string) map[string]string {
	for _, sn := range list {
		if strings.EqualFold(sn.Name, name) {
			return sn.Used
		}
	}
	return nil
}

func inUse(id arm.ID) error {
	return arm.Errorf(http.StatusBadRequest, "InUseSubnetCannotBeDeleted", "Subnet %s is in use and cannot be deleted.", id.Base())
}

// writeVNet reads or makes a network, changes it, and writes it bound to its group.
func (s *Service) writeVNet(ctx context.Context, r *arm.Request, id arm.ID, change func(*VNet) (any, error)) (*arm.Response, error) {
	for {
		it, err := s.VNets.Get(ctx, id.Key())
		status := http.StatusOK
		if errors.Is(err, store.ErrNotFound) {
			if r.ID().Type != VNetType {
				return nil, arm.NotFound(id)
			}
			status = http.StatusCreated
			it = store.Item[VNet]{ID: id.Key(), Value: VNet{Meta: tracked.Meta{ID: id, Location: s.Location, Created: s.Now().UTC()}}}
		} else if err != nil {
			return nil, err
		}
		if err := tracked.Match(r.HTTP.Header, tagOf(it.Value.Meta.Etag)); err != nil {
			return nil, err
		}
		before := len(it.Value.Subnets)
		if _, err := change(&it.Value); err != nil {
			return nil, err
		}
		it.Value.Meta.Etag = tracked.NewEtag()
		tx := s.DB.Txn()
		if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
			return nil, err
		}
		s.VNets.UpdateIn(tx, it)
		if err := tx.Commit(ctx); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		afterVNet.Hit()
		if r.ID().Type == VNetType {
			return &arm.Response{Status: status, Body: it.Value.wire()}, nil
		}
		if len(it.Value.Subnets) > before {
			status = http.StatusCreated
		}
		sn := it.Value.find(r.ID().Base())
		if sn == nil { // deleted
			return &arm.Response{Status: http.StatusOK}, nil
		}
		return &arm.Response{Status: status, Body: it.Value.wireSubnet(*sn)}, nil
	}
}

// tagOf is the etag in the form clients send back, or "" for none.
func tagOf(e string) string {
	if e == "" {
		return ""
	}
	return `W/"` + e
}

func (v *VNet) find(name string) *Subnet {
	for i := range v.Subnets {
		if strings.EqualFold(v.Subnets[i].Name, name) {
			return &v.Subnets[i]
		}
	}
	return nil
}

// check says what is wrong with the address plan.
func (v *VNet) check() error {
	if len(v.Prefixes) == 0 {
		return invalid("properties.addressSpace.addressPrefixes", "A virtual network needs at least one address prefix.")
	}
	var spaces []netip.Prefix
	for i, p := range v.Prefixes {
		n, err := cidr(p)
		if err != nil {
			return invalid(fmt.Sprintf("properties.addressSpace.addressPrefixes[%d]", i), "Address prefix '%s' is invalid: %s.", p, err)
		}
		spaces = append(spaces, n)
	}
	var taken []netip.Prefix
	for i := range v.Subnets {
		sn := &v.Subnets[i]
		at := fmt.Sprintf("properties.subnets[%d]", i)
		if err := arm.CheckName(sn.Name); err != nil {
			return err
		}
		if v.find(sn.Name) != sn {
			return invalid(at+".name", "Subnet '%s' is given twice.", sn.Name)
		}
		n, err := cidr(sn.Prefix)
		if err != nil || n.Bits() > 29 {
			return invalid(at+".properties.addressPrefix", "Address prefix '%s' of subnet '%s' is invalid: want IPv4 CIDR of at least 8 addresses.", sn.Prefix, sn.Name)
		}
		inside := false
		for _, sp := range spaces {
			inside = inside || sp.Bits() <= n.Bits() && sp.Contains(n.Addr())
		}
		if !inside {
			return arm.Errorf(http.StatusBadRequest, "NetcfgInvalidSubnet", "Subnet '%s' is not valid in virtual network '%s'.", sn.Name, v.Meta.ID.Name).At(at)
		}
		for _, t := range taken {
			if t.Overlaps(n) {
				return arm.Errorf(http.StatusBadRequest, "NetcfgSubnetRangesOverlap", "Subnet '%s' is not valid because its IP address range overlaps with that of an existing subnet in virtual network '%s'.", sn.Name, v.Meta.ID.Name).At(at)
			}
		}
		for addr := range sn.Used {
			if a, err := netip.ParseAddr(addr); err != nil || !n.Contains(a) {
				return arm.Errorf(http.StatusBadRequest, "InUsePrefixCannotBeDeleted", "Address %s of subnet '%s' is in use and lies outside the new prefix.", addr, sn.Name).At(at)
			}
		}
		taken = append(taken, n)
	}
	return nil
}

func cidr(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, errors.New("want IPv4 CIDR")
	case !p.Addr().Is4():
		return p, errors.New("only IPv4 is supported here")
	case p.Masked() != p:
		return p, fmt.Errorf("host bits are set, want %s", p.Masked())
	}
	return p, nil
}

func (s *Service) deleteVNet(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.VNets.Get(ctx, r.ID().Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	for _, sn := range it.Value.Subnets {
		if len(sn.Used) > 0 {
			return nil, inUse(it.Value.subnetID(sn.Name))
		}
	}
	if err := s.VNets.Delete(ctx, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

func (s *Service) putSubnet(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body subnetBody
	if err := arm.Decode(r.Body, subnetShape, &body); err != nil {
		return nil, err
	}
	return s.writeVNet(ctx, r, r.ID().Parent(), func(v *VNet) (any, error) {
		sn := v.find(r.Var("name"))
		if sn == nil {
			v.Subnets = append(v.Subnets, Subnet{Name: r.Var("name")})
			sn = &v.Subnets[len(v.Subnets)-1]
		}
		sn.Prefix = body.Properties.Prefix
		return nil, v.check()
	})
}

func (s *Service) deleteSubnet(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.VNets.Get(ctx, r.ID().Parent().Key())
	if errors.Is(err, store.ErrNotFound) || err == nil && it.Value.find(r.Var("name")) == nil {
		return arm.NoContent(), nil
	}
	return s.writeVNet(ctx, r, r.ID().Parent(), func(v *VNet) (any, error) {
		kept := v.Subnets[:0]
		for _, sn := range v.Subnets {
			if !strings.EqualFold(sn.Name, r.Var("name")) {
				kept = append(kept, sn)
			} else if len(sn.Used) > 0 {
				return nil, inUse(r.ID())
			}
		}
		v.Subnets = kept
		return nil, nil
	})
}

func (s *Service) getSubnet(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.vnets().Find(ctx, r.ID().Parent())
	if err != nil {
		return nil, err
	}
	sn := it.Value.find(r.Var("name"))
	if sn == nil {
		return nil, arm.NotFound(r.ID())
	}
	return arm.OK(it.Value.wireSubnet(*sn)), nil
}

func (s *Service) listSubnets(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	id := r.ID()
	id.Type, id.Name = VNetType, r.Var("parent")
	it, err := s.vnets().Find(ctx, id)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, sn := range it.Value.Subnets {
		out = append(out, it.Value.wireSubnet(sn))
	}
	return arm.OK(arm.Page(out)), nil
}

var nicShape = arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "etag": arm.ReadOnly, "kind": arm.ReadOnly, "location": arm.Text, "tags": arm.Free,
	"properties": arm.Object(arm.Shape{
		"ipConfigurations": arm.List(arm.Shape{"id": arm.ReadOnly, "name": arm.Text, "type": arm.ReadOnly, "etag": arm.ReadOnly, "properties": arm.Object(arm.Shape{
			"subnet": arm.Object(arm.Shape{"id": arm.Text, "name": arm.ReadOnly, "properties": arm.ReadOnly}), "privateIPAllocationMethod": arm.OneOf("Dynamic", "Static"), "privateIPAddress": arm.Text,
			"privateIPAddressVersion": arm.OneOf("IPv4"), "primary": arm.Flag, "provisioningState": arm.ReadOnly})}),
		"provisioningState": arm.ReadOnly, "resourceGuid": arm.ReadOnly, "macAddress": arm.ReadOnly, "primary": arm.ReadOnly, "virtualMachine": arm.ReadOnly,
		"nicType": arm.OneOf("Standard"), "auxiliaryMode": arm.OneOf("None"), "auxiliarySku": arm.OneOf("None"), "dnsSettings": arm.Object(arm.Shape{"dnsServers": arm.List(arm.Shape{}), "appliedDnsServers": arm.ReadOnly}),
		"hostedWorkloads": arm.ReadOnly, "tapConfigurations": arm.List(arm.Shape{}), "vnetEncryptionSupported": arm.ReadOnly})}

type nicBody struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		IPConfigurations []struct {
			Name       string `json:"name"`
			Properties struct {
				Subnet struct {
					ID string `json:"id"`
				} `json:"subnet"`
				Method  string `json:"privateIPAllocationMethod"`
				Address string `json:"privateIPAddress"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
	} `json:"properties"`
}

func (s *Service) putNIC(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var body nicBody
	if err := arm.Decode(r.Body, nicShape, &body); err != nil {
		return nil, err
	}
	if err := errors.Join(s.where(body.Location), tracked.CheckTags(body.Tags)); err != nil {
		return nil, err
	}
	const target = "properties.ipConfigurations"
	if n := len(body.Properties.IPConfigurations); n != 1 {
		return nil, invalid(target, "A network interface has exactly one IP configuration here; %d are given.", n)
	}
	conf := body.Properties.IPConfigurations[0]
	if err := arm.CheckName(conf.Name); err != nil {
		return nil, err
	}
	subnetID, err := arm.ParseID(conf.Properties.Subnet.ID, SubnetType)
	if err != nil {
		return nil, err
	}
	static := conf.Properties.Method == "Static"
	if static != (conf.Properties.Address != "") && static {
		return nil, invalid(target+"[0].properties.privateIPAddress", "A static address must be given.")
	}
	id := r.ID()
	if arm.Key(subnetID.Subscription) != arm.Key(id.Subscription) {
		return nil, invalid(target+"[0].properties.subnet.id", "The subnet lies in another subscription.")
	}
	for {
		nic, err := s.NICs.Get(ctx, id.Key())
		status := http.StatusOK
		if errors.Is(err, store.ErrNotFound) {
			status = http.StatusCreated
			mac, err := newMAC()
			if err != nil {
				return nil, err
			}
			nic = store.Item[NIC]{ID: id.Key(), Value: NIC{Meta: tracked.Meta{ID: id, Location: s.Location, Created: s.Now().UTC()}, MAC: mac}}
		} else if err != nil {
			return nil, err
		}
		if err := tracked.Match(r.HTTP.Header, tagOf(nic.Value.Meta.Etag)); err != nil {
			return nil, err
		}
		vnet, err := s.VNets.Get(ctx, subnetID.Parent().Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		sn := vnet.Value.find(subnetID.Base())
		if sn == nil {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidResourceReference", "Resource %s referenced by resource %s was not found.", subnetID, id).At(target + "[0].properties.subnet.id")
		}
		n := &nic.Value
		moved := status == http.StatusOK && (n.Subnet.Key() != subnetID.Key() || static && n.Address != conf.Properties.Address)
		if moved {
			return nil, arm.Errorf(http.StatusConflict, "PropertyChangeNotAllowed", "Subnet and address of a network interface can't be changed here; make a new one.").At(target + "[0].properties")
		}
		if status == http.StatusCreated {
			if n.Address, err = sn.take(conf.Properties.Address, id); err != nil {
				return nil, err
			}
		}
		n.Meta.Tags, n.Meta.Etag, n.ConfigName, n.Subnet, n.Prefix, n.Static = body.Tags, tracked.NewEtag(), conf.Name, vnet.Value.subnetID(sn.Name), sn.Prefix, static
		tx := s.DB.Txn()
		if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
			return nil, err
		}
		s.VNets.UpdateIn(tx, vnet)
		s.NICs.UpdateIn(tx, nic)
		if err := tx.Commit(ctx); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		afterNIC.Hit()
		return &arm.Response{Status: status, Body: n.wire()}, nil
	}
}

// take reserves an address: the one asked for, or the first free. The first four and the last are reserved, as in Azure.
func (sn *Subnet) take(want string, nic arm.ID) (string, error) {
	p, err := netip.ParsePrefix(sn.Prefix)
	if err != nil {
		return "", fmt.Errorf("stored subnet prefix: %w", err)
	}
	free := func(a netip.Addr) bool { return sn.Used[a.String()] == "" }
	first := p.Addr()
	for range 4 {
		first = first.Next()
	}
	var got netip.Addr
	if want != "" {
		a, err := netip.ParseAddr(want)
		if err != nil || !p.Contains(a) || a.Less(first) || !p.Contains(a.Next()) {
			return "", arm.Errorf(http.StatusBadRequest, "PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix %s, or is reserved.", want, sn.Prefix)
		}
		if !free(a) {
			return "", arm.Errorf(http.StatusBadRequest, "PrivateIPAddressInUse", "IP address %s is in use.", want)
		}
		got = a
	} else {
		for a := first; p.Contains(a.Next()); a = a.Next() {
			if free(a) {
				got = a
				break
			}
		}
		if !got.IsValid() {
			return "", arm.Errorf(http.StatusBadRequest, "SubnetIsFull", "Subnet %s with address prefix %s does not have enough capacity for 1 IP addresses.", sn.Name, sn.Prefix)
		}
	}
	if sn.Used == nil {
		sn.Used = map[string]string{}
	}
	sn.Used[got.String()] = nic.String()
	return got.String(), nil
}

// newMAC makes a locally administered address in QEMU's range.
func newMAC() (string, error) {
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("choosing a MAC address: %w", err)
	}
	return fmt.Sprintf("525400%X", b), nil
}

func (s *Service) deleteNIC(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	switch err := s.Remove(ctx, r.ID()); {
	case errors.Is(err, store.ErrNotFound):
		return arm.NoContent(), nil
	case err != nil:
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

// Remove deletes an interface that no VM uses, and gives its address back.
func (s *Service) Remove(ctx context.Context, id arm.ID) error {
	for {
		nic, err := s.NICs.Get(ctx, id.Key())
		if err != nil {
			return err
		}
		if nic.Value.VM != "" {
			return arm.Errorf(http.StatusBadRequest, "NicInUse", "Network Interface %s is used by existing resource %s.", id, nic.Value.VM)
		}
		tx := s.DB.Txn()
		if err := s.RemoveIn(ctx, tx, nic); err != nil {
			return err
		}
		if err := tx.Commit(ctx); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// RemoveIn deletes an interface in a transaction. A transaction takes one interface of a network only: the network's
// record is written once.
func (s *Service) RemoveIn(ctx context.Context, tx *store.Txn, nic store.Item[NIC]) error {
	vnet, err := s.VNets.Get(ctx, nic.Value.Subnet.Parent().Key())
	if err != nil {
		return err
	}
	if sn := vnet.Value.find(nic.Value.Subnet.Base()); sn != nil {
		delete(sn.Used, nic.Value.Address)
	}
	s.NICs.DeleteIn(tx, nic)
	s.VNets.UpdateIn(tx, vnet)
	return nil
}

// Resources lists interfaces and networks of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	nics, err := s.nics().Metas(ctx, sub, group)
	if err != nil {
		return nil, err
	}
	vnets, err := s.vnets().Metas(ctx, sub, group)
	return append(nics, vnets...), err
}

// Clear removes what nothing uses. A network whose addresses are used from another group stays, and so does its group.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	nics, err := s.nics().All(ctx, sub, group)
	if err != nil {
		return err
	}
	for _, it := range nics {
		if it.Value.VM == "" {
			if err := s.Remove(ctx, it.Value.Meta.ID); err != nil {
				return err
			}
		}
	}
	vnets, err := s.vnets().All(ctx, sub, group)
	if err != nil {
		return err
	}
	for _, it := range vnets {
		used := 0
		for _, sn := range it.Value.Subnets {
			used += len(sn.Used)
		}
		if used == 0 {
			if err := s.VNets.Delete(ctx, it); err != nil {
				return err
			}
		}
	}
	return nil
}
