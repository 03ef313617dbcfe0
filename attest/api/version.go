package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
)

// The api-versions of Azure's service that are served, oldest first. All have the shapes of the newest.
var versions = []string{"2020-10-01", "2022-08-01", "2022-09-01-preview", "2023-04-01-preview", "2025-06-01"}

// The first versions that have a call.
const (
	sinceFirst    = "2020-10-01"
	sinceSevSnpVM = "2022-08-01"
	sinceTdxVM    = "2023-04-01-preview"
)

// checkVersion asks for one of Azure's api-versions.
func checkVersion(r *http.Request) error { return checkVersionSince(r, sinceFirst) }

// checkVersionSince asks for one of Azure's api-versions, from the first one that has the call.
func checkVersionSince(r *http.Request, first string) error {
	return oneOf(r, versions[slices.Index(versions, first):])
}

// checkOurVersion asks for the version of the calls that Azure's service does not have.
func checkOurVersion(r *http.Request) error { return oneOf(r, []string{client.VersionCloister}) }

func oneOf(r *http.Request, known []string) error {
	got := r.URL.Query()["api-version"]
	if len(got) != 1 {
		return evidence.Refuse(evidence.CodeParse, "api-version", fmt.Sprintf("%d of them", len(got)), "one of "+strings.Join(known, ", "))
	}
	if !slices.Contains(known, got[0]) {
		return evidence.Refuse(evidence.CodeUnsupported, "api-version", got[0], "one of "+strings.Join(known, ", "))
	}
	return nil
}
