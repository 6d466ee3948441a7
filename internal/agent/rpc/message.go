package rpc

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/atollhq/atoll/api"
	"github.com/go-json-experiment/json/jsontext"
)

// message is one parsed JSON-RPC message. All of it points into the text
// that it was parsed from.
type message struct {
	id     []byte // raw JSON; nil for a notification
	method string
	params params
	size   int // bytes of text
}

// params are a message's parameters.
type params struct {
	object  bool     // they are an object, or absent
	members []member // of that object
}

// get returns the raw value of a parameter, or nil. Of a repeated name the
// last counts, as in JavaScript.
func (p params) get(name string) []byte {
	for i := len(p.members) - 1; i >= 0; i-- {
		if string(p.members[i].name) == name {
			return p.members[i].value
		}
	}
	return nil
}

// id returns a parameter that is an integer.
func (p params) id(name string) (int64, bool) {
	n, err := strconv.ParseInt(string(p.get(name)), 10, 64)
	return n, err == nil
}

// maxMembers bounds how many names an object at the level of parameters may
// have.
const maxMembers = 1024

// parseMessage parses one message. With an error the message's id is set as
// far as it was understood.
func parseMessage(b []byte) (message, *api.RPCError) {
	m := message{size: len(b), params: params{object: true}}
	s := scanner{b: b}
	if s.peek() != '{' {
		if s.value(0) && s.peek() == 0 && s.i == len(b) {
			return m, invalidRequest("a message must be an object; batches are not supported")
		}
		return m, parseError()
	}
	methodIsText := true
	ok := s.object(0, func(name []byte) (ok bool) {
		var raw []byte
		switch string(name) {
		case "id":
			m.id, ok = s.raw(1)
		case "method":
			raw, ok = s.raw(1)
			m.method, methodIsText = decodeText(raw)
		case "params":
			m.params, ok = s.params()
		default:
			ok = s.value(1)
		}
		return ok
	})
	if !ok || s.peek() != 0 || s.i != len(b) {
		m.id = nil
		return m, parseError()
	}
	switch {
	case !validID(m.id):
		m.id = nil
		return m, invalidRequest("the id must be a string, a number or null")
	case !methodIsText || m.method == "":
		return m, invalidRequest("the method must be a string")
	case len(m.params.members) > maxMembers:
		return m, invalidRequest("the parameters have too many names")
	}
	return m, nil
}

// params walks over the parameters and lists the members in the same go.
func (s *scanner) params() (params, bool) {
	if s.peek() != '{' {
		return params{object: s.peek() == 'n'}, s.value(1)
	}
	p := params{object: true, members: make([]member, 0, 8)}
	ok := s.object(1, func(name []byte) bool {
		value, ok := s.raw(2)
		if len(p.members) <= maxMembers {
			p.members = append(p.members, member{name: name, value: value})
		}
		return ok
	})
	return p, ok
}

func validID(id []byte) bool {
	return len(id) == 0 || (id[0] != '{' && id[0] != '[' && id[0] != 't' && id[0] != 'f')
}

// decodeText decodes a raw JSON string.
func decodeText(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	body := raw[1 : len(raw)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body), true
	}
	// Lone surrogates become U+FFFD, as everywhere in Go.
	out, _ := jsontext.AppendUnquote(make([]byte, 0, len(body)), raw)
	return string(out), true
}

func parseError() *api.RPCError {
	return &api.RPCError{Code: api.RPCParseError, Message: "Parse error: the message is not valid JSON"}
}

func invalidRequest(reason string) *api.RPCError {
	return &api.RPCError{Code: api.RPCInvalidRequest, Message: "Invalid request: " + reason}
}

// rawOrNull returns raw JSON, or null when there is none.
func rawOrNull(raw []byte) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// clientError reads the error with which a client ended a stream. The Python
// SDK sends a plain string.
func clientError(raw []byte) *api.RemoteError {
	if text, ok := decodeText(raw); ok {
		return NewError("Error", "", "%s", text)
	}
	e := &api.RemoteError{}
	if len(raw) == 0 || json.Unmarshal(raw, e) != nil || e.ConstructorName == "" {
		return NewError("Error", "", "the client ended the stream with an error")
	}
	return e
}
