package client

import (
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/strictjson"
)

// Access is what a tenant's programs need of a key keeper that the tenant runs: where it is, the keys that sign its answers,
// and a way to sign in there. It holds a secret.
type Access struct {
	Service      initdata.Service `json:"service"`
	Authority    string           `json:"authority"` // of its sign-in, without a final slash
	TenantID     string           `json:"tenantId"`
	ClientID     string           `json:"clientId"`
	ClientSecret string           `json:"clientSecret"`
}

// ParseAccess reads what cloister-keys init wrote.
func ParseAccess(raw []byte) (Access, error) {
	var a Access
	if err := strictjson.Decode("key service", raw, &a, "what cloister-keys init wrote"); err != nil {
		return a, err
	}
	for field, v := range map[string]string{"service.url": a.Service.URL, "service.tlsCA": a.Service.TLSCA, "authority": a.Authority, "tenantId": a.TenantID, "clientId": a.ClientID, "clientSecret": a.ClientSecret} {
		if v == "" {
			return a, evidence.Refuse(evidence.CodeParse, "key service: "+field, "empty", "as cloister-keys init wrote it")
		}
	}
	if len(a.Service.SigningKeys) == 0 {
		return a, evidence.Refuse(evidence.CodeParse, "key service: service.signingKeys", fmt.Sprint(len(a.Service.SigningKeys)), "the keys that sign its answers")
	}
	return a, nil
}
