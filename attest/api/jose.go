package api

import (
	"encoding/base64"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

// joseHeader reads the header of a compact JWS.
func joseHeader(jws string) (map[string]any, error) {
	if n := strings.Count(jws, "."); n != 2 {
		return nil, evidence.Refuse(evidence.CodeParse, "policy JWS", fmt.Sprintf("%d dots", n), "a compact JWS: two dots")
	}
	head, _, _ := strings.Cut(jws, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "policy JWS header", "no base64url", "base64url of JSON")
	}
	return strictjson.Object("policy JWS header", raw)
}
