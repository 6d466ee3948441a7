package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// JSON-RPC error codes (https://www.jsonrpc.org/specification#error_object)
// and those that the platform adds.
const (
	RPCParseError     = -32700
	RPCInvalidRequest = -32600
	RPCMethodNotFound = -32601
	RPCInvalidParams  = -32602
	RPCInternalError  = -32603
	RPCServerError    = -32000
	RPCAborted        = 2
)

// Limits of the WebSocket protocol, in bytes.
const (
	// MaxClientMessage bounds one message from a client. It leaves room for a
	// 128 MiB file in base64.
	MaxClientMessage = 192 << 20
	// MaxServerMessage bounds one message to a client: the official JavaScript
	// SDK's WebSocket refuses anything larger.
	MaxServerMessage = 100 << 20
	// StreamChunk is how much data one stream message carries at most, before
	// base64. The official Python SDK refuses messages over 1 MiB.
	StreamChunk = 256 << 10
)

// The text messages that keep a connection alive. They are not JSON.
const (
	PingText = "ping"
	PongText = "pong"
)

// Notification methods, in both directions.
const (
	NotifyStreamStart    = "$sandbox.stream.start"
	NotifyStreamEnqueue  = "$sandbox.stream.enqueue"
	NotifyStreamEnd      = "$sandbox.stream.end"
	NotifyStreamError    = "$sandbox.stream.error"
	NotifyStreamCancel   = "$sandbox.stream.cancel"
	NotifyWatcherRestart = "$sandbox.deno.watcher.restart"
)

// Request is a JSON-RPC request or, without ID, a notification.
type Request struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// Response answers a Request: exactly one of Result and Error is set.
type Response struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *RPCError       `json:"error,omitempty"`
}

// RPCError is a JSON-RPC level failure: the call never reached the method.
type RPCError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func (e *RPCError) Error() string { return fmt.Sprintf("json-rpc error %d: %s", e.Code, e.Message) }

// Result is what a method answers: {"ok": …} or {"error": …}.
type Result struct {
	OK    json.RawMessage `json:"ok,omitempty"`
	Error *RemoteError    `json:"error,omitempty"`
}

// RemoteError is a JavaScript error as the SDKs rebuild it. ConstructorName
// is the class ("TypeError", "NotFound" for Deno.errors.NotFound); Code is
// the system's name for it ("ENOENT").
type RemoteError struct {
	ConstructorName string         `json:"constructorName"`
	Message         string         `json:"message"`
	Code            *string        `json:"code"`
	Stack           *string        `json:"stack"`
	Cause           *RemoteError   `json:"cause"`
	Errors          []*RemoteError `json:"errors"`
	Name            *string        `json:"name"`
	Suppressed      *RemoteError   `json:"suppressed"`
	Inner           *RemoteError   `json:"error"`
}

func (e *RemoteError) Error() string { return e.ConstructorName + ": " + e.Message }

// ValidationIssue is one entry of the JSON list that an invalid-params error
// carries as its data's message, in the shape of a ZodError's issues.
type ValidationIssue struct {
	Code     string   `json:"code"`
	Expected string   `json:"expected"`
	Path     []string `json:"path"`
	Message  string   `json:"message"`
}

// Bytes is binary data, base64 in JSON.
type Bytes []byte

// MarshalJSON encodes b as a base64 string; nil is an empty string.
func (b Bytes) MarshalJSON() ([]byte, error) {
	out := make([]byte, 2+base64.StdEncoding.EncodedLen(len(b)))
	out[0], out[len(out)-1] = '"', '"'
	base64.StdEncoding.Encode(out[1:], b)
	return out, nil
}

// UnmarshalJSON decodes a base64 string, with or without padding.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	if len(in) < 2 || in[0] != '"' || in[len(in)-1] != '"' {
		return fmt.Errorf("binary data must be a base64 string")
	}
	in = in[1 : len(in)-1]
	for len(in) > 0 && in[len(in)-1] == '=' {
		in = in[:len(in)-1]
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(in)))
	n, err := base64.RawStdEncoding.Decode(out, in)
	if err != nil {
		return fmt.Errorf("binary data is not base64: %w", err)
	}
	*b = out[:n]
	return nil
}

// Date is a time in the form of JavaScript's Date.toISOString. It also
// accepts a number of seconds since 1970, which the Python SDK sends.
type Date struct{ time.Time }

const dateFormat = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes milliseconds and UTC.
func (d Date) MarshalJSON() ([]byte, error) {
	return []byte(`"` + d.UTC().Format(dateFormat) + `"`), nil
}

// UnmarshalJSON reads RFC 3339 or seconds since 1970.
func (d *Date) UnmarshalJSON(in []byte) error {
	if len(in) > 0 && in[0] != '"' {
		var seconds float64
		if err := json.Unmarshal(in, &seconds); err != nil {
			return fmt.Errorf("a date must be an ISO 8601 string")
		}
		d.Time = time.UnixMicro(int64(seconds * 1e6)).UTC()
		return nil
	}
	var s string
	if err := json.Unmarshal(in, &s); err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("a date must be an ISO 8601 string")
	}
	d.Time = t.UTC()
	return nil
}
