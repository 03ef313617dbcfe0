package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/store"
)

func (s *Service) catalogRoutes() []arm.Route {
	const provider = "/subscriptions/{sub}/providers/Microsoft.Compute"
	return []arm.Route{
		{Method: http.MethodGet, Pattern: provider + "/skus", Action: "Microsoft.Compute/skus/read", Handle: s.skus},
		{Method: http.MethodGet, Pattern: provider + "/locations/{location}/usages", Action: "Microsoft.Compute/locations/usages/read", Handle: s.usages},
		{Method: http.MethodGet, Pattern: provider + "/locations/{location}/vmSizes", Action: "Microsoft.Compute/locations/vmSizes/read", Handle: s.sizes},
	}
}

func (s *Service) skus(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if f := r.Query.Get("$filter"); f != "" {
		name, value, ok := strings.Cut(f, " eq ")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "location") {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidFilterInQueryString", "Filter %q is not supported: want location eq 'name'.", f).At("$filter")
		}
		if arm.Location(strings.Trim(strings.TrimSpace(value), "'")) != s.Location {
			return arm.OK(arm.Page([]any{})), nil
		}
	}
	_, hosts, err := s.candidates(ctx)
	if err != nil {
		return nil, err
	}
	zones := s.Zones
	if zones == nil {
		zones = []string{}
	}
	out := []any{}
	for _, size := range catalog.All() {
		restrictions := []any{}
		if why := s.neverFits(hosts, size); why != "" {
			restrictions = append(restrictions, map[string]any{"type": "Location", "values": []string{s.Location}, "restrictionInfo": map[string]any{"locations": []string{s.Location}}, "reasonCode": "NotAvailableForSubscription"})
		}
		out = append(out, map[string]any{"resourceType": "virtualMachines", "name": size.Name, "tier": "Standard", "size": size.Short, "family": size.Family,
			"locations": []string{s.Location}, "locationInfo": []any{map[string]any{"location": s.Location, "zones": zones, "zoneDetails": []any{}}},
			"capabilities": s.capabilities(size), "restrictions": restrictions})
	}
	return arm.OK(arm.Page(out)), nil
}

// Names of the capabilities that are ours: what a VM of the size really gets here. Launch digests follow from them.
const (
	CapabilityVCPUs     = "Cloister.vCPUs"
	CapabilityMemoryMiB = "Cloister.MemoryMiB"
	CapabilityCPUModel  = "Cloister.CPUModel"
)

func (s *Service) capabilities(size catalog.Size) []any {
	g := s.Cap.Grant(size)
	var out []any
	add := func(name string, v any) {
		text := fmt.Sprint(v)
		switch v {
		case true:
			text = "True"
		case false:
			text = "False"
		}
		out = append(out, map[string]string{"name": name, "value": text})
	}
	add("vCPUs", size.VCPUs)
	add("vCPUsAvailable", size.VCPUs)
	add("MemoryGB", size.MemoryGiB)
	add("MaxDataDiskCount", size.DataDisks)
	add("MaxNetworkInterfaces", size.NICs)
	add("MaxResourceVolumeMB", size.TempGiB<<10)
	add("UncachedDiskIOPS", size.IOPS)
	add("UncachedDiskBytesPerSecond", size.MBps*1_000_000)
	add("HyperVGenerations", "V2")
	add("CpuArchitectureType", "x64")
	add("ConfidentialComputingType", strings.ToUpper(string(size.TEE)))
	add("PremiumIO", true)
	for _, lacking := range []string{"AcceleratedNetworkingEnabled", "EncryptionAtHostSupported", "EphemeralOSDiskSupported", "LowPriorityCapable", "RdmaEnabled", "CapacityReservationSupported"} {
		add(lacking, false)
	}
	add("VMDeploymentTypes", "IaaS")
	add(CapabilityVCPUs, g.VCPUs)
	add(CapabilityMemoryMiB, g.MemoryMiB)
	add(CapabilityCPUModel, s.CPUModel)
	return out
}

func (s *Service) sizes(_ context.Context, r *arm.Request) (*arm.Response, error) {
	if err := s.here(r); err != nil {
		return nil, err
	}
	out := []any{}
	for _, z := range catalog.All() {
		out = append(out, map[string]any{"name": z.Name, "numberOfCores": z.VCPUs, "memoryInMB": z.MemoryGiB << 10, "maxDataDiskCount": z.DataDisks, "osDiskSizeInMB": 4095 << 10, "resourceDiskSizeInMB": z.TempGiB << 10})
	}
	return arm.OK(arm.Page(out)), nil
}

func (s *Service) here(r *arm.Request) error {
	if arm.Location(r.Var("location")) != s.Location {
		return arm.Errorf(http.StatusBadRequest, "NoRegisteredProviderFound", "No registered resource provider found for location '%s'. The supported location is '%s'.", r.Var("location"), s.Location)
	}
	return nil
}

func (s *Service) usages(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if err := s.here(r); err != nil {
		return nil, err
	}
	it, err := s.Usages.Get(ctx, usageKey(r.Var("sub")))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	out := []any{}
	add := func(counter, shown string) {
		out = append(out, map[string]any{"unit": "Count", "limit": s.Limits.Of(counter), "currentValue": it.Value.Used[counter], "name": map[string]string{"value": counter, "localizedValue": shown}})
	}
	add(quota.Cores, "Total Regional vCPUs")
	add(quota.VMs, "Virtual Machines")
	for _, f := range catalog.Families() {
		add(f, "Standard "+strings.TrimSuffix(strings.TrimPrefix(f, "standard"), "Family")+" Family vCPUs")
	}
	return arm.OK(arm.Page(out)), nil
}
