// Package secret holds a sandbox's secrets: the guest's environment gets
// placeholders, the values stay in the gateway's process.
//
// Terms: a needle is a text that is looked for, a placeholder in what leaves
// or a value in what arrives; its forms are the ways in which it may be
// written; to fill a request is to put values into it, to redact a response is
// to put placeholders back. An exchange is one request and its response.
//
// A Set never changes and may be used concurrently. Bodies stream through: what
// may be the beginning of a needle is held back, and nothing else.
package secret

// Spec is what a client asks for. Its JSON form is the client's.
type Spec struct {
	Hosts     []string `json:"hosts"`               // grammar of allow-lists, without CIDR
	Value     string   `json:"value"`               //
	In        []string `json:"in,omitempty"`        // parts that may carry it: "header", "query", "path", "body", "websocket"; empty is all
	Methods   []string `json:"methods,omitempty"`   // requests that may; empty is all
	Paths     []string `json:"paths,omitempty"`     // path patterns of requests that may; empty is all
	Exclusive bool     `json:"exclusive,omitempty"` // requests to its hosts that authenticate with anything else are refused
	Sign      *Sign    `json:"sign,omitempty"`      // the value signs and never travels
}

// Sign says how a value signs requests; see package sign.
type Sign struct {
	Type string `json:"type"` // "aws" or "hmac"

	// Of "aws" (Signature Version 4).
	KeyID        string `json:"key_id,omitempty"`        // the real access key id
	KeyIDEnv     string `json:"key_id_env,omitempty"`    // variable for its placeholder; default AWS_ACCESS_KEY_ID
	SessionToken string `json:"session_token,omitempty"` // of temporary credentials
	SessionEnv   string `json:"session_env,omitempty"`   // variable for its placeholder; default AWS_SESSION_TOKEN

	// Of "hmac".
	Algorithm  string   `json:"algorithm,omitempty"`   // "sha256" (default), "sha512", "sha1"
	Encoding   string   `json:"encoding,omitempty"`    // "hex" (default), "base64"
	Header     string   `json:"header,omitempty"`      // that carries the signature
	Prefix     string   `json:"prefix,omitempty"`      // before the signature in the header
	Over       []string `json:"over,omitempty"`        // what is signed, in order: "body" (default), "method", "path", "query", "timestamp", "header:Name", "text:…"
	Separator  string   `json:"separator,omitempty"`   // between the parts
	TimeHeader string   `json:"time_header,omitempty"` // that carries the timestamp, in Unix seconds
}
