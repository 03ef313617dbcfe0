package compute_test

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"golang.org/x/crypto/ssh"
)

const (
	sshKey = group + "/providers/Microsoft.Compute/sshPublicKeys/key"
	// ed25519Line is a public key whose private half nobody has.
	ed25519Line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a comment"
)

func TestSSHKeyByAzureSDK(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	ctx := t.Context()
	c := must[*armcompute.SSHPublicKeysClient](t)(armcompute.NewSSHPublicKeysClient(sub, e, e.options()))
	if _, err := c.Create(ctx, "g", "key", armcompute.SSHPublicKeyResource{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil); err != nil {
		t.Fatal(err)
	}
	made, err := c.GenerateKeyPair(ctx, "g", "key", nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey([]byte(*made.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	if line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); line != *made.PublicKey || !strings.HasPrefix(line, "ssh-rsa ") || *made.ID != sshKey {
		t.Errorf("the halves are of different pairs: %s and %s", line, *made.PublicKey)
	}
	got, err := c.Get(ctx, "g", "KEY", nil)
	if err != nil || *got.Properties.PublicKey != *made.PublicKey || *got.Tags["a"] != "b" {
		t.Errorf("%v %+v", err, got.Properties)
	}
	if _, err := c.GenerateKeyPair(ctx, "g", "key", nil); err == nil {
		t.Error("a second pair was made under the same name")
	}
	if _, err := c.Create(ctx, "g", "second", armcompute.SSHPublicKeyResource{Location: to.Ptr("local"), Properties: &armcompute.SSHPublicKeyResourceProperties{PublicKey: to.Ptr(ed25519Line)}}, nil); err != nil {
		t.Fatal(err)
	}
	u, err := c.Update(ctx, "g", "second", armcompute.SSHPublicKeyUpdateResource{Tags: map[string]*string{"x": to.Ptr("y")}}, nil)
	if err != nil || *u.Properties.PublicKey != ed25519Line || *u.Tags["x"] != "y" {
		t.Errorf("%v %+v", err, u)
	}
	n := 0
	for pager := c.NewListBySubscriptionPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.Value)
	}
	for pager := c.NewListByResourceGroupPager("g", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.Value)
	}
	if n != 4 {
		t.Errorf("two keys are %d times in two lists", n)
	}
	if strings.Contains(jsonText(e.want(200, "GET", sshKey, "")), "PRIVATE") {
		t.Error("the private half was kept")
	}
	for range 2 {
		if _, err := c.Delete(ctx, "g", "key", nil); err != nil {
			t.Fatal(err)
		}
	}
	e.want(404, "GET", sshKey, "")
	e.want(202, "DELETE", group, "")
	e.until(group, "ResourceGroupNotFound")
}

func TestSSHKeyRefused(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	e.want(201, "PUT", sshKey, `{"location":"local","properties":{"publicKey":"`+ed25519Line+`"}}`)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	small, err := ssh.NewPublicKey(&short.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	with := func(key string) string { return `{"location":"local","properties":{"publicKey":"` + key + `"}}` }
	for _, r := range []struct {
		name, method, path, body string
		status                   int
		code, target             string
	}{
		{"no key", "PUT", sshKey + "2", with("hello"), 400, "InvalidParameter", "properties.publicKey"},
		{"a private key", "PUT", sshKey + "2", with("-----BEGIN OPENSSH PRIVATE KEY-----"), 400, "InvalidParameter", "properties.publicKey"},
		{"two keys", "PUT", sshKey + "2", with(ed25519Line + `\n` + ed25519Line), 400, "InvalidParameter", "properties.publicKey"},
		{"a key with options", "PUT", sshKey + "2", with(`command=\"id\" ` + ed25519Line), 400, "InvalidParameter", "properties.publicKey"},
		{"a key that is too small", "PUT", sshKey + "2", with(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(small)))), 400, "InvalidParameter", "properties.publicKey"},
		{"a key of another kind", "PATCH", sshKey, with("ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="), 400, "InvalidParameter", "properties.publicKey"},
		{"elsewhere", "PUT", sshKey + "2", strings.Replace(with(ed25519Line), "local", "moon", 1), 400, "LocationNotAvailableForResourceType", "location"},
		{"CP-02 an unknown property", "PUT", sshKey + "2", `{"location":"local","properties":{"passphrase":"x"}}`, 400, "InvalidParameter", "properties.passphrase"},
		{"no group", "PUT", strings.Replace(sshKey, "resourceGroups/g/", "resourceGroups/none/", 1), with(ed25519Line), 404, "ResourceGroupNotFound", ""},
		{"a pair for nothing", "POST", sshKey + "2/generateKeyPair", "", 404, "ResourceNotFound", ""},
		{"a pair in a key's place", "POST", sshKey + "/generateKeyPair", "", 409, "OperationNotAllowed", ""},
		{"a pair of another kind", "POST", sshKey + "/generateKeyPair", `{"encryptionType":"DSA"}`, 400, "InvalidParameter", "encryptionType"},
	} {
		t.Run(r.name, func(t *testing.T) {
			status, out, _ := e.call(r.method, r.path, r.body)
			code, _, target := errorOf(out)
			if status != r.status || code != r.code || target != r.target {
				t.Errorf("%d %s at %s, want %d %s at %s: %v", status, code, target, r.status, r.code, r.target, out)
			}
			if !strings.Contains(jsonText(e.want(200, "GET", sshKey, "")), ed25519Line) {
				t.Error("the key was changed")
			}
			e.want(404, "GET", sshKey+"2", "")
		})
	}
	stale := func(r *http.Request) { r.Header.Set("If-Match", `"old"`) }
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		if status, out, _ := e.call(method, sshKey, with(ed25519Line), stale); status != 412 {
			t.Errorf("%s with a stale etag: %d %v", method, status, out)
		}
	}
	e.want(200, "PUT", sshKey, `{"location":"local"}`) // leaves the key
	e.want(201, "PUT", sshKey+"3", `{"location":"local"}`)
	if out := e.want(200, "POST", sshKey+"3/generateKeyPair", `{"encryptionType":"Ed25519"}`); !strings.HasPrefix(out["publicKey"].(string), "ssh-ed25519 ") {
		t.Error(out)
	}
}
