// Package identity says who calls: it verifies sign-in tokens against pinned issuers.
//
// Who a caller is never suffices to get a key: a role and attested evidence are both needed.
package identity

// Kind tells what a principal is.
type Kind string

// The kinds of principals.
const (
	KindUser Kind = "user"
	KindApp  Kind = "app"
	KindVM   Kind = "vm" // the managed identity of one VM
)

// Principal is a caller whose token was verified.
type Principal struct {
	ObjectID string // oid: what role assignments name
	TenantID string // tid
	ClientID string // appid or azp
	Name     string // for people only; never decides anything
	Kind     Kind
	VMID     string // UUID in lower case of the VM, for KindVM only
}
