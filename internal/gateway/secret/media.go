package secret

import (
	"mime"
	"strings"
)

// media is what a body of some type allows: how a value is written in it, and
// whether it survives a change of its length.
type media struct {
	name    string // of the type, for people
	text    bool   // may change its length while it streams
	counted bool   // holds lengths of its own: nothing in it may change its length
	grpc    bool   // consists of gRPC's messages
	write   func(string) string
	escapes []*escape // in which placeholders may be written
}

var (
	textTypes = map[string]bool{
		"application/graphql": true, "application/javascript": true, "application/ecmascript": true, "application/x-javascript": true,
		"application/yaml": true, "application/x-yaml": true, "application/toml": true, "application/sql": true,
		"application/x-sh": true, "application/jwt": true, "application/jose": true, "application/x-pem-file": true,
		"application/sdp": true,
	}
	jsonTypes = map[string]bool{
		"application/json": true, "application/x-ndjson": true, "application/ndjson": true, "application/jsonl": true,
		"application/x-jsonlines": true, "application/json-seq": true, "application/x-amz-json-1.0": true,
		"application/x-amz-json-1.1": true, "application/csp-report": true, "text/json": true,
	}
	countedTypes = []string{"application/grpc", "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf",
		"application/msgpack", "application/x-msgpack", "application/vnd.msgpack", "application/cbor", "application/avro",
		"application/x-thrift", "application/vnd.apache.thrift", "application/x-git-"}
)

// mediaOf reads a Content-Type. What isn't known is binary.
func mediaOf(contentType string) media {
	name, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		name, _, _ = strings.Cut(contentType, ";")
		name = strings.ToLower(strings.TrimSpace(name))
	}
	m := media{name: clip(name), write: asIs}
	if name == "" {
		m.name = "no type"
	}
	switch {
	case jsonTypes[name] || strings.HasSuffix(name, "+json"):
		m.text, m.write, m.escapes = true, jsonText, []*escape{slash}
	case name == "application/x-www-form-urlencoded":
		m.text, m.write, m.escapes = true, formText, []*escape{percent}
	case name == "text/xml" || name == "application/xml" || strings.HasSuffix(name, "+xml"):
		m.text, m.write, m.escapes = true, markupText, []*escape{entity}
	case strings.HasPrefix(name, "text/") || strings.HasPrefix(name, "multipart/") || textTypes[name]:
		m.text = true
	default:
		m.counted = isCounted(name)
		m.grpc = name == "application/grpc" || strings.HasPrefix(name, "application/grpc+") ||
			name == "application/grpc-web" || strings.HasPrefix(name, "application/grpc-web+")
	}
	return m
}

func isCounted(name string) bool {
	for _, prefix := range countedTypes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, "+proto") || strings.HasSuffix(name, "+cbor") || strings.HasSuffix(name, "+msgpack")
}
