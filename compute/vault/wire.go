package vault

import (
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/compute/arm"
	keys "cloister.dev/cloister/keys/client"
)

var policyShape = arm.Shape{"tenantId": arm.Text, "objectId": arm.Text, "applicationId": arm.Text,
	"permissions": arm.Object(arm.Shape{"keys": arm.Free, "secrets": arm.Free, "certificates": arm.Free, "storage": arm.Free})}

// openNetwork is the only network rule that is true here: whoever reaches the service may call it.
var openNetwork = arm.Object(arm.Shape{"bypass": arm.Text, "defaultAction": arm.OneOf("Allow"), "ipRules": arm.List(nil), "virtualNetworkRules": arm.List(nil), "serviceTags": arm.List(nil)})

func shapeOf(k sort) arm.Shape {
	sku := arm.Object(arm.Shape{"family": arm.OneOf("A"), "name": arm.OneOf("standard", "premium")})
	properties := arm.Shape{
		"tenantId": arm.Text, "createMode": arm.OneOf("default", "recover"), "enableSoftDelete": arm.Flag, "softDeleteRetentionInDays": arm.Number, "enablePurgeProtection": arm.Flag,
		"networkAcls": openNetwork, "publicNetworkAccess": arm.OneOf("Enabled"),
		"provisioningState": arm.ReadOnly, "privateEndpointConnections": arm.ReadOnly, "scheduledPurgeDate": arm.ReadOnly,
	}
	if k.resourceType == PoolType {
		sku = arm.Object(arm.Shape{"family": arm.OneOf("B"), "name": arm.OneOf("Standard_B1", "Custom_B32", "Custom_B6")})
		properties["initialAdminObjectIds"] = arm.Free
		for _, name := range []string{"hsmUri", "statusMessage", "securityDomainProperties", "regions"} {
			properties[name] = arm.ReadOnly
		}
	} else {
		properties["sku"] = sku
		properties["accessPolicies"] = arm.List(policyShape)
		for _, name := range []string{"enabledForDeployment", "enabledForDiskEncryption", "enabledForTemplateDeployment", "enableRbacAuthorization"} {
			properties[name] = arm.Flag
		}
		for _, name := range []string{"vaultUri", "hsmPoolResourceId"} {
			properties[name] = arm.ReadOnly
		}
	}
	out := arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "systemData": arm.ReadOnly, "location": arm.Text, "tags": arm.Free, "properties": arm.Object(properties)}
	if k.resourceType == PoolType {
		out["sku"] = sku
	}
	return out
}

type skuBody struct {
	Family string `json:"family"`
	Name   string `json:"name"`
}

type policyBody struct {
	TenantID      string           `json:"tenantId"`
	ObjectID      string           `json:"objectId"`
	ApplicationID string           `json:"applicationId,omitempty"`
	Permissions   keys.Permissions `json:"permissions"`
}

type properties struct {
	TenantID           string       `json:"tenantId"`
	SKU                skuBody      `json:"sku"`
	CreateMode         string       `json:"createMode"`
	SoftDelete         *bool        `json:"enableSoftDelete"`
	RetentionDays      *int         `json:"softDeleteRetentionInDays"`
	PurgeProtection    *bool        `json:"enablePurgeProtection"`
	Roles              *bool        `json:"enableRbacAuthorization"`
	AccessPolicies     []policyBody `json:"accessPolicies"`
	Administrators     []string     `json:"initialAdminObjectIds"`
	Deployment         *bool        `json:"enabledForDeployment"`
	DiskEncryption     *bool        `json:"enabledForDiskEncryption"`
	TemplateDeployment *bool        `json:"enabledForTemplateDeployment"`
}

type body struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	SKU        skuBody           `json:"sku"`
	Properties properties        `json:"properties"`
}

// flags are those of a body, and those of before where it leaves them out.
func (p properties) flags(was flags) flags {
	for _, f := range []struct {
		set *bool
		of  *bool
	}{{&was.Deployment, p.Deployment}, {&was.DiskEncryption, p.DiskEncryption}, {&was.TemplateDeployment, p.TemplateDeployment}} {
		if f.of != nil {
			*f.set = *f.of
		}
	}
	return was
}

// over is the body of a PATCH with what it leaves out taken from the vault.
func (b body) over(v Vault) body {
	b.Location = v.Meta.Location
	if b.Tags == nil {
		b.Tags = v.Meta.Tags
	}
	p, was := &b.Properties, v.Keeper
	if p.TenantID == "" {
		p.TenantID = was.TenantID
	}
	if p.SKU.Name == "" {
		p.SKU.Name = was.SKU
	}
	if b.SKU.Name == "" {
		b.SKU.Name = was.SKU
	}
	if p.Roles == nil {
		p.Roles = &was.Roles
	}
	if p.AccessPolicies == nil {
		p.AccessPolicies = policiesOf(was)
	}
	if p.Administrators == nil {
		p.Administrators = was.Administrators
	}
	return b
}

const defaultRetentionDays = 90

// ask is what the key keeper is asked for. All problems that are seen here are reported at once; the rest is the key
// keeper's to judge.
func (s *Service) ask(id arm.ID, k sort, b body, was Vault, fresh bool) (keys.Vault, error) {
	p := b.Properties
	var problems []arm.Detail
	add := func(code, target, message string) {
		problems = append(problems, arm.Detail{Code: code, Target: target, Message: message})
	}
	if err := arm.CheckLocation(b.Location, s.Location, k.resourceType); err != nil {
		problems = append(problems, err.Detail())
	}
	if !strings.EqualFold(p.TenantID, s.TenantID) {
		add("InvalidParameter", "properties.tenantId", "Property 'properties.tenantId' is '"+p.TenantID+"'; want '"+s.TenantID+"', the tenant of the subscription.")
	}
	sku := p.SKU.Name
	if k.resourceType == PoolType {
		sku = b.SKU.Name
	}
	if sku == "" {
		add("InvalidParameter", "sku.name", "Required parameter 'sku.name' is missing (null).")
	}
	if p.SoftDelete != nil && !*p.SoftDelete {
		add("BadRequest", "properties.enableSoftDelete", `The property "enableSoftDelete" can be set to false only for creating new vault. Here what is deleted can always be recovered for a time.`)
	}
	roles := k.resourceType == PoolType || p.Roles != nil && *p.Roles
	if !roles && p.AccessPolicies == nil && fresh {
		add("InvalidParameter", "properties.accessPolicies", "Required parameter 'properties.accessPolicies' is missing (null): want a list, also an empty one, or enableRbacAuthorization true.")
	}
	out := keys.Vault{Name: strings.ToLower(id.Base()), Kind: k.keeperKind, TenantID: s.TenantID, SKU: sku, Roles: roles, Resource: id.String(), Location: s.Location, Tags: b.Tags, RetentionDays: defaultRetentionDays}
	if !fresh {
		out.Resource = was.Meta.ID.String() // in the case it was made with
	}
	switch {
	case p.RetentionDays != nil:
		out.RetentionDays = *p.RetentionDays
	case !fresh && was.Ready:
		out.RetentionDays = was.Keeper.RetentionDays
	}
	switch {
	case p.PurgeProtection != nil:
		out.PurgeProtection = *p.PurgeProtection
	case !fresh:
		out.PurgeProtection = was.Keeper.PurgeProtection
	}
	if was.Keeper.PurgeProtection && !out.PurgeProtection {
		add("BadRequest", "properties.enablePurgeProtection", `The property "enablePurgeProtection" cannot be set to false. Enabling the purge protection for a vault is an irreversible action.`)
	}
	if !fresh && was.Ready && out.RetentionDays != was.Keeper.RetentionDays {
		add("BadRequest", "properties.softDeleteRetentionInDays", `The property "softDeleteRetentionInDays" has been set already and it can't be modified.`)
	}
	for _, id := range p.Administrators {
		out.Administrators = append(out.Administrators, strings.ToLower(id))
	}
	if k.resourceType == PoolType && fresh && len(out.Administrators) == 0 {
		add("InvalidParameter", "properties.initialAdminObjectIds", "Required parameter 'properties.initialAdminObjectIds' is missing (null).")
	}
	for _, policy := range p.AccessPolicies {
		out.AccessPolicies = append(out.AccessPolicies, keys.AccessPolicy{TenantID: strings.ToLower(policy.TenantID), ObjectID: strings.ToLower(policy.ObjectID), ApplicationID: strings.ToLower(policy.ApplicationID), Permissions: policy.Permissions})
	}
	return out, arm.Violations(http.StatusBadRequest, problems)
}

func policiesOf(v keys.Vault) []policyBody {
	out := []policyBody{}
	for _, p := range v.AccessPolicies {
		out = append(out, policyBody(p))
	}
	return out
}

// wire is a vault or a pool as clients read it.
func (v Vault) wire() any {
	state := "Succeeded"
	if !v.Ready {
		state = "Creating"
	}
	k := v.Keeper
	p := map[string]any{"tenantId": k.TenantID, "provisioningState": state, "enableSoftDelete": true, "softDeleteRetentionInDays": k.RetentionDays, "publicNetworkAccess": "Enabled",
		"networkAcls": map[string]any{"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": []any{}, "virtualNetworkRules": []any{}}}
	if k.PurgeProtection {
		p["enablePurgeProtection"] = true // Azure shows it where it is on
	}
	if v.Meta.ID.Type == PoolType {
		p["hsmUri"], p["initialAdminObjectIds"], p["statusMessage"] = k.URL, slices.Clone(k.Administrators), "The pool is served by software or by the HSM that the key keeper is configured with."
		p["enablePurgeProtection"] = k.PurgeProtection
		out := v.Meta.Wire(p)
		out["sku"] = map[string]any{"family": "B", "name": k.SKU}
		return out
	}
	p["vaultUri"], p["accessPolicies"], p["enableRbacAuthorization"] = k.URL, policiesOf(k), k.Roles
	p["sku"] = map[string]any{"family": "A", "name": k.SKU}
	p["enabledForDeployment"], p["enabledForDiskEncryption"], p["enabledForTemplateDeployment"] = v.Flags.Deployment, v.Flags.DiskEncryption, v.Flags.TemplateDeployment
	return v.Meta.Wire(p)
}
