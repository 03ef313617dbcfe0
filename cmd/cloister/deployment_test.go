package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"cloister.dev/cloister/compute/template"
)

// Files and values on the command line come together, the last one counts, and each has the type that the template gives it.
func TestParameterValues(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "p=v.json")
	for name, text := range map[string]string{file: `{parameters:{"name":{"value":"a"},"n":{"value":1}}}`, filepath.Join(dir, "text"): "x=y\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]string{"name": "string", "n": "int", "b": "bool", "o": "object", "s": "securestring"}
	got, err := parameterValues(kinds, []string{"@" + file, "N=7", "b=false", `o={"a":1}`, "s=@" + filepath.Join(dir, "text"), "name=c=d"})
	want := map[string]any{"name": "c=d", "n": int64(7), "b": false, "o": map[string]any{"a": int64(1)}, "s": "x=y\n"}
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v, %v", got, err)
	}
	for name, v := range want {
		if !reflect.DeepEqual(got[name], map[string]any{"value": v}) {
			t.Errorf("%s: %v, want %v", name, got[name], v)
		}
	}
}

// A template that is refused ends with the status of refusals, and all reasons are shown.
func TestRefusedTemplateStatus(t *testing.T) {
	err := notValid{&armresources.ErrorResponse{Code: to.Ptr("InvalidTemplateDeployment"), Message: to.Ptr("no"), Target: to.Ptr("t"), Details: []*armresources.ErrorResponse{{Code: to.Ptr("QuotaExceeded"), Message: to.Ptr("why")}}}}
	if got := err.Error(); got != "InvalidTemplateDeployment: no (t)\n  QuotaExceeded: why" || status(err) != exitRefused {
		t.Errorf("%d %q", status(err), got)
	}
	if got := status(&template.Error{Code: "InvalidTemplate"}); got != exitRefused {
		t.Errorf("a template that is refused here: %d", got)
	}
}
