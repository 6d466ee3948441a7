package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/atollhq/atoll/api"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// validator is what parameters implement to check more than their types.
type validator interface {
	Validate() []api.ValidationIssue
}

var (
	bytesType   = reflect.TypeFor[api.Bytes]()
	rawType     = reflect.TypeFor[json.RawMessage]()
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

// field is one parameter of a method.
type field struct {
	name     string
	index    []int // as reflect.Value.FieldByIndex takes it
	typ      reflect.Type
	required bool
}

// fieldsOf lists the parameters that a struct type describes, those of
// embedded structs included; an outer field hides an embedded one's.
func fieldsOf(t reflect.Type) []field {
	var out []field
	seen := map[string]bool{}
	var embedded []reflect.StructField
	for f := range t.Fields() {
		tag, tagged := f.Tag.Lookup("json")
		if f.Anonymous && !tagged {
			embedded = append(embedded, f)
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if !f.IsExported() || name == "-" || name == "" {
			continue
		}
		optional := slices.Contains(strings.Split(options, ","), "omitempty") || canBeNil(f.Type)
		seen[name] = true
		out = append(out, field{name: name, index: f.Index, typ: f.Type, required: !optional})
	}
	for _, e := range embedded {
		for _, f := range fieldsOf(e.Type) {
			if !seen[f.name] {
				seen[f.name] = true
				f.index = append(slices.Clone(e.Index), f.index...)
				out = append(out, f)
			}
		}
	}
	return out
}

// canBeNil says whether a parameter of this type may be missing. Binary data
// may not: it is a slice only in Go.
func canBeNil(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Interface:
		return true
	case reflect.Slice:
		return t != bytesType
	}
	return false
}

// decodeParams fills a struct and reports everything that is wrong with it.
// Binary data stays in the message's own memory.
func decodeParams(fields []field, p params, out reflect.Value) []api.ValidationIssue {
	if !p.object {
		return []api.ValidationIssue{issue("object", "array", nil)}
	}
	var issues []api.ValidationIssue
	for _, f := range fields {
		raw := p.get(f.name)
		if len(raw) == 0 || string(raw) == "null" {
			if f.required {
				issues = append(issues, issue(expected(f.typ), received(raw), []string{f.name}))
			}
			continue
		}
		if found := decodeField(f, raw, out.FieldByIndex(f.index)); found != nil {
			issues = append(issues, *found)
		}
	}
	return issues
}

func decodeField(f field, raw []byte, v reflect.Value) *api.ValidationIssue {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	switch {
	case v.Type() == bytesType:
		data, err := decodeBytes(raw)
		if err != nil {
			return invalidValue("base64 string", err.Error(), f.name)
		}
		v.SetBytes(data)
		return nil
	case v.Type() == rawType:
		v.SetBytes(raw)
		return nil
	case v.Kind() == reflect.String && !v.Addr().Type().Implements(unmarshaler):
		text, ok := decodeText(raw)
		if !ok {
			bad := issue("string", received(raw), []string{f.name})
			return &bad
		}
		v.SetString(text)
		return nil
	}
	return decodeOther(f, raw, v)
}

// decodeOther leaves a value to the general decoder.
func decodeOther(f field, raw []byte, v reflect.Value) *api.ValidationIssue {
	err := jsonv2.Unmarshal(raw, v.Addr().Interface(),
		jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	if err == nil {
		return nil
	}
	path := []string{f.name}
	want := f.typ
	if e, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
		for token := range e.JSONPointer.Tokens() {
			path = append(path, token)
		}
		if e.GoType != nil {
			want = e.GoType
		}
		raw = offending(e)
		if e.Err != nil {
			return invalidValue(expected(want), e.Err.Error(), path...)
		}
	}
	bad := issue(expected(want), received(raw), path)
	return &bad
}

// offending is a text that starts like the value which an error is about.
func offending(e *jsonv2.SemanticError) []byte {
	if len(e.JSONValue) > 0 {
		return e.JSONValue
	}
	return []byte{byte(e.JSONKind)}
}

// decodeBytes decodes a base64 string, with or without padding, into the
// memory that it stands in.
func decodeBytes(raw []byte) ([]byte, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, fmt.Errorf("expected string, received %s", received(raw))
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		text, _ := decodeText(raw)
		raw = []byte(`"` + text + `"`)
	}
	return decodeInPlace(raw[1 : len(raw)-1])
}

var errBase64 = errors.New("the string is not base64")

// expected names a type as a schema of the SDK would.
func expected(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case bytesType, reflect.TypeFor[api.Date]():
		return "string"
	case reflect.TypeFor[api.Watch]():
		return "boolean or array"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice, reflect.Array:
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "int"
	default:
		return "number"
	}
}

// received names the type of a raw value; none is "undefined".
func received(raw []byte) string {
	if len(raw) == 0 {
		return "undefined"
	}
	switch raw[0] {
	case '"':
		return "string"
	case '{':
		return "object"
	case '[':
		return "array"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

func issue(want, got string, path []string) api.ValidationIssue {
	if path == nil {
		path = []string{}
	}
	return api.ValidationIssue{
		Code: "invalid_type", Expected: want, Path: path,
		Message: fmt.Sprintf("Invalid input: expected %s, received %s", want, got),
	}
}

func invalidValue(want, why string, path ...string) *api.ValidationIssue {
	return &api.ValidationIssue{Code: "invalid_value", Expected: want, Path: path, Message: "Invalid input: " + why}
}

// invalidParams is the answer to a call with wrong parameters, in the shape
// of a serialised ZodError, which the SDKs know.
func invalidParams(issues []api.ValidationIssue) *api.RPCError {
	list, err := json.Marshal(issues)
	if err != nil {
		list = []byte("[]")
	}
	data, err := json.Marshal(map[string]string{"constructorName": "ZodError", "message": string(list)})
	if err != nil {
		data = nil
	}
	return &api.RPCError{Code: api.RPCInvalidParams, Message: "Invalid params", Data: data}
}
