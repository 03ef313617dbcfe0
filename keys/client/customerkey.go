package client

// Tags of a guest-state key, read when it is created, that put it under a key of the customer's in the same vault.
const (
	// CustomerKeyTag is the customer's key: its URL, with or without a version.
	CustomerKeyTag = "cloister-customer-key"
	// CustomerKeyRotationTag is CustomerKeyLatest where new versions of the customer's key are followed.
	CustomerKeyRotationTag = "cloister-customer-key-rotation"
	// CustomerKeyLatest is the only value of CustomerKeyRotationTag.
	CustomerKeyLatest = "latest"
	// CustomerKeyIdentityTag is the object id of the encryption set's identity, whose role on the customer's key counts at
	// each start. Without it, the creator's counts.
	CustomerKeyIdentityTag = "cloister-customer-key-identity"
)
