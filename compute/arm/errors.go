// Package arm is the edge of the control plane: paths, versions, bodies and errors of Azure Resource Manager.
//
// What comes in here is untrusted text. What leaves here towards the other packages is a checked name, or a body
// in which every member is known.
package arm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Detail is one problem of a request.
type Detail struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Target  string   `json:"target,omitempty"`
	Details []Detail `json:"details,omitempty"`
}

// Error is a refusal in Resource Manager's form. Status is the HTTP status; a permanent failure is never 5xx,
// since clients repeat those for minutes.
type Error struct {
	Status  int      `json:"-"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Target  string   `json:"target,omitempty"`
	Details []Detail `json:"details,omitempty"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an error.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// At names the member that is wrong.
func (e *Error) At(target string) *Error {
	e.Target = target
	return e
}

// Detail is the error as a part of another one.
func (e *Error) Detail() Detail {
	return Detail{Code: e.Code, Message: e.Message, Target: e.Target, Details: e.Details}
}

// Violations turns all problems of one request into one error, with the code and target of the first. It is nil
// when there are none.
func Violations(status int, all []Detail) error {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return &Error{Status: status, Code: all[0].Code, Message: all[0].Message, Target: all[0].Target}
	}
	text := make([]string, len(all))
	for i, d := range all {
		text[i] = d.Message
		if d.Target != "" {
			text[i] = d.Target + ": " + d.Message
		}
	}
	return &Error{Status: status, Code: all[0].Code, Target: all[0].Target, Details: all,
		Message: fmt.Sprintf("%d rules refuse this request: %s", len(all), strings.Join(text, " | "))}
}

// NotFound is the answer for a resource that isn't there.
func NotFound(id ID) *Error {
	return Errorf(http.StatusNotFound, "ResourceNotFound",
		"The Resource '%s/%s' under resource group '%s' was not found.", id.Type, id.Name, id.Group)
}

// GroupNotFound is the answer for a group that isn't there.
func GroupNotFound(group string) *Error {
	return Errorf(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", group)
}

// AsError finds the Error inside, or nil.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// CheckLocation refuses, in Resource Manager's words, a place where a type of resource is not; asked is as the caller wrote it. Nil: it is.
func CheckLocation(asked, have, resourceType string) *Error {
	at := Location(asked)
	if at == have {
		return nil
	}
	return Errorf(http.StatusBadRequest, "LocationNotAvailableForResourceType", "The provided location '%s' is not available for resource type '%s'. List of available regions for the resource type is '%s'.", at, resourceType, have).At("location")
}
