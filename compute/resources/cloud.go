package resources

import (
	"context"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/identity"
)

// Cloud is what clients must know to find their way.
type Cloud struct {
	Endpoint      string   // of this API, outer URL without a final slash
	Authority     string   // sign-in, outer URL without a final slash
	TenantID      string   //
	Subscription  []string // GUIDs
	Location      string
	Audiences     []string // that tokens for this API may have; the first is the one clients ask for
	VaultSuffix   string   // such as vault.localhost:8443
	AttestURL     string
	Authorize     func(p *identity.Principal, action, scope string) error
	ResourceTypes map[string][]string // provider → resource types served
}

// Registered without being served: clients refuse to start when one of these is missing.
var expected = []string{"Microsoft.Authorization", "Microsoft.CostManagement", "Microsoft.ManagedIdentity", "Microsoft.MarketplaceOrdering", "Microsoft.Storage"}

// Routes of the cloud's own calls.
func (c *Cloud) Routes() []arm.Route {
	return []arm.Route{
		{Method: http.MethodGet, Pattern: "/metadata/endpoints", Public: true, Handle: c.endpoints},
		{Method: http.MethodGet, Pattern: "/subscriptions", Handle: c.subscriptions},
		{Method: http.MethodGet, Pattern: "/tenants", Handle: c.tenants},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}", Action: "Microsoft.Resources/subscriptions/read", Handle: c.subscription},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/locations", Action: "Microsoft.Resources/subscriptions/locations/read", Handle: c.locations},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/providers", Action: "Microsoft.Resources/subscriptions/providers/read", Handle: c.providers},
		{Method: http.MethodGet, Pattern: "/subscriptions/{sub}/providers/{ns}", Action: "Microsoft.Resources/subscriptions/providers/read", Handle: c.provider},
		{Method: http.MethodPost, Pattern: "/subscriptions/{sub}/providers/{ns}/register", Action: "Microsoft.Resources/subscriptions/providers/register/action", Handle: c.provider},
	}
}

func (c *Cloud) endpoints(_ context.Context, r *arm.Request) (*arm.Response, error) {
	body := map[string]any{
		"name": "Cloister",
		"authentication": map[string]any{
			"loginEndpoint": c.Authority + "/", "audiences": c.Audiences, "tenant": c.TenantID, "identityProvider": "AAD"},
		"resourceManager":                       c.Endpoint + "/",
		"graphAudience":                         c.Endpoint + "/graph/",
		"graph":                                 c.Endpoint + "/graph/",
		"graphEndpoint":                         c.Endpoint + "/graph/", // az 2.45 reads this one
		"microsoftGraphResourceId":              c.Endpoint + "/graph/",
		"portal":                                c.Endpoint + "/",
		"gallery":                               c.Endpoint + "/",
		"batch":                                 c.Endpoint + "/",
		"media":                                 c.Endpoint + "/",
		"sqlManagement":                         c.Endpoint + "/",
		"activeDirectoryDataLake":               c.Endpoint + "/",
		"vmImageAliasDoc":                       c.Endpoint + "/metadata/aliases",
		"attestationResourceId":                 c.AttestURL,
		"logAnalyticsResourceId":                c.Endpoint + "/",
		"ossrDbmsResourceId":                    c.Endpoint + "/",
		"synapseAnalyticsResourceId":            c.Endpoint + "/",
		"appInsightsResourceId":                 c.Endpoint + "/",
		"appInsightsTelemetryChannelResourceId": c.Endpoint + "/",
		"suffixes": map[string]any{
			"keyVaultDns": c.VaultSuffix, "mhsmDns": c.VaultSuffix, "attestationEndpoint": hostOf(c.AttestURL),
			"storage": "storage.invalid", "acrLoginServer": "registry.invalid", "sqlServerHostname": "sql.invalid"},
	}
	if strings.HasPrefix(r.Query.Get("api-version"), "2019") {
		return arm.OK([]any{body}), nil
	}
	return arm.OK(body), nil
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

func (c *Cloud) wire(sub string) map[string]any {
	return map[string]any{"id": "/subscriptions/" + sub, "subscriptionId": sub, "tenantId": c.TenantID, "displayName": "Cloister", "state": "Enabled",
		"authorizationSource": "RoleBased", "managedByTenants": []any{},
		"subscriptionPolicies": map[string]any{"locationPlacementId": "Public_2014-09-01", "quotaId": "Cloister_2026-11-01", "spendingLimit": "Off"}}
}

func (c *Cloud) subscriptions(_ context.Context, r *arm.Request) (*arm.Response, error) {
	out := []any{}
	for _, s := range c.Subscription {
		if c.Authorize(r.Principal, "Microsoft.Resources/subscriptions/read", "/subscriptions/"+s) == nil {
			out = append(out, c.wire(s))
		}
	}
	return arm.OK(arm.Page(out)), nil
}

func (c *Cloud) subscription(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return arm.OK(c.wire(r.Var("sub"))), nil
}

func (c *Cloud) tenants(context.Context, *arm.Request) (*arm.Response, error) {
	return arm.OK(arm.Page([]any{map[string]any{"id": "/tenants/" + c.TenantID, "tenantId": c.TenantID, "displayName": "Cloister", "tenantCategory": "Home", "domains": []string{}}})), nil
}

// Has tells whether there is such a subscription.
func (c *Cloud) Has(sub string) bool {
	for _, s := range c.Subscription {
		if strings.EqualFold(s, sub) {
			return true
		}
	}
	return false
}

func (c *Cloud) locations(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return arm.OK(arm.Page([]any{map[string]any{
		"id": "/subscriptions/" + r.Var("sub") + "/locations/" + c.Location, "name": c.Location, "displayName": c.Location, "regionalDisplayName": c.Location, "type": "Region",
		"metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended", "geographyGroup": "Cloister", "longitude": "0", "latitude": "0", "physicalLocation": c.Location, "pairedRegion": []any{}}}})), nil
}

// versions are those that the clients which were looked at ask for; any other well-formed one is served too.
var versions = []string{"2026-04-01", "2025-04-01", "2025-01-02", "2025-01-01", "2024-11-01", "2024-07-01", "2024-05-01", "2024-03-01", "2023-09-01", "2023-07-01", "2023-04-02", "2022-09-01", "2021-07-01", "2021-04-01", "2019-04-01", "2015-06-15"}

func (c *Cloud) wireProvider(sub, ns string) map[string]any {
	types := []any{}
	for _, t := range c.ResourceTypes[ns] {
		types = append(types, map[string]any{"resourceType": t, "locations": []string{c.Location}, "apiVersions": versions, "capabilities": "SupportsTags, SupportsLocation"})
	}
	return map[string]any{"id": "/subscriptions/" + sub + "/providers/" + ns, "namespace": ns, "registrationState": "Registered", "registrationPolicy": "RegistrationRequired", "resourceTypes": types}
}

func (c *Cloud) names() []string {
	out := append([]string(nil), expected...)
	for ns := range c.ResourceTypes {
		out = append(out, ns)
	}
	return out
}

func (c *Cloud) providers(_ context.Context, r *arm.Request) (*arm.Response, error) {
	out := []any{}
	for _, ns := range c.names() {
		out = append(out, c.wireProvider(r.Var("sub"), ns))
	}
	return arm.OK(arm.Page(out)), nil
}

func (c *Cloud) provider(_ context.Context, r *arm.Request) (*arm.Response, error) {
	for _, ns := range c.names() {
		if strings.EqualFold(ns, r.Var("ns")) {
			return arm.OK(c.wireProvider(r.Var("sub"), ns)), nil
		}
	}
	return nil, arm.Errorf(http.StatusNotFound, "InvalidResourceNamespace", "The resource namespace '%s' is invalid.", r.Var("ns"))
}
