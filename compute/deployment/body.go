package deployment

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/template"
)

// maxSource bounds a template and its parameters as they are kept, in bytes: etcd takes little more in one record.
const maxSource = 1 << 20

var shape = arm.Shape{"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "tags": arm.Free, "properties": arm.Object(arm.Shape{
	"template": arm.Free, "parameters": arm.Free, "mode": arm.OneOf("Incremental", "Complete"), "debugSetting": arm.Object(arm.Shape{"detailLevel": arm.OneOf("none")}),
	"expressionEvaluationOptions": arm.Object(arm.Shape{"scope": arm.OneOf("NotSpecified")}), "validationLevel": arm.OneOf("Provider"), "provisioningState": arm.ReadOnly})}

type body struct {
	Tags       map[string]string `json:"tags"`
	Properties struct {
		Mode       string          `json:"mode"`
		Template   json.RawMessage `json:"template"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"properties"`
}

// request is a body that was read.
type request struct {
	tags     map[string]string
	template *template.Template
	values   map[string]any
}

// read takes a body, in which az leaves the template as it is in its file: with comments and bare names.
func read(raw []byte) (request, error) {
	v, err := template.Read(raw)
	if err != nil {
		var e *template.Error
		errors.As(err, &e)
		return request{}, arm.Errorf(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: %s", e.Message).At(e.Path)
	}
	var b body
	if err := arm.Decode(template.JSON(v), shape, &b); err != nil {
		return request{}, err
	}
	p := b.Properties
	switch {
	case p.Mode == "":
		return request{}, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "The deployment's mode is not given; want Incremental.").At("properties.mode")
	case p.Mode == "Complete":
		return request{}, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "The deployment mode 'Complete' is not supported here, since it deletes what the template does not name; want Incremental.").At("properties.mode")
	case len(p.Template) == 0:
		return request{}, arm.Errorf(http.StatusBadRequest, "InvalidTemplate", "The deployment has no template.").At("properties.template")
	}
	t, err := template.Parse(p.Template)
	if err != nil {
		return request{}, invalidTemplate(err)
	}
	values, err := valuesOf(p.Parameters)
	return request{b.Tags, t, values}, err
}

// valuesOf reads {"name":{"value":…}}.
func valuesOf(raw json.RawMessage) (map[string]any, error) {
	out := map[string]any{}
	if len(raw) == 0 {
		return out, nil
	}
	bad := func(at, format string, args ...any) (map[string]any, error) {
		return nil, arm.Errorf(http.StatusBadRequest, "InvalidTemplate", format, args...).At("properties.parameters" + at)
	}
	v, err := template.Read(raw)
	if err != nil {
		return nil, invalidTemplate(err)
	}
	given, ok := v.(map[string]any)
	if !ok {
		return bad("", "The deployment parameters are not an object.")
	}
	for name, v := range given {
		entry, ok := v.(map[string]any)
		if !ok {
			return bad("."+name, "The value of deployment parameter '%.100s' is not an object with the member 'value'.", name)
		}
		found := false
		for k, v := range entry {
			switch {
			case strings.EqualFold(k, "value"):
				out[name], found = v, true
			case strings.EqualFold(k, "reference"):
				return bad("."+name+".reference", "The deployment parameter '%.100s' refers to a secret of a vault, which is not supported here: the control plane can't read vaults.", name)
			case !strings.EqualFold(k, "type") && !strings.EqualFold(k, "metadata"):
				return bad("."+name, "The deployment parameter '%.100s' has the member '%.100s', which is not supported.", name, k)
			}
		}
		if !found {
			return bad("."+name, "The value of deployment parameter '%.100s' is null. Please specify the value or use the parameter's default value.", name)
		}
	}
	return out, nil
}

// invalidTemplate maps what the language says to Resource Manager's form.
func invalidTemplate(err error) error {
	var e *template.Error
	if !errors.As(err, &e) {
		return err
	}
	return arm.Errorf(http.StatusBadRequest, e.Code, "%s", e.Message).At(e.Path)
}
