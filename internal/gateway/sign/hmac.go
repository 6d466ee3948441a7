package sign

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // as an HMAC it is sound, and some services know nothing else
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// HMACConfig says how a key signs requests.
type HMACConfig struct {
	Key        string
	Algorithm  string   // "sha256" (default), "sha512", "sha1"
	Encoding   string   // "hex" (default), "base64"
	Header     string   // that carries the signature
	Prefix     string   // before the signature; "{timestamp}" in it becomes the timestamp
	Over       []string // what is signed, in order: "body" (default), "method", "path", "query", "timestamp", "header:Name", "text:…"
	Separator  string   // between the parts
	TimeHeader string   // that carries the timestamp, in Unix seconds
}

// Format keeps the key out of every text.
func (HMACConfig) Format(f fmt.State, _ rune) { hide(f) }

// LogValue keeps the key out of every log.
func (HMACConfig) LogValue() slog.Value { return hiddenValue }

// HMAC puts a signature into a header of each request.
type HMAC struct {
	key        []byte
	hash       func() hash.Hash
	encode     func([]byte) string
	header     string
	prefix     string
	over       []string
	separator  string
	timeHeader string
	now        func() time.Time
	budget     budget
}

// Format keeps the key out of every text.
func (*HMAC) Format(f fmt.State, _ rune) { hide(f) }

const (
	maxHMACBody = 8 << 20
	maxParts    = 32
	timeMark    = "{timestamp}"
)

var algorithms = map[string]func() hash.Hash{"": sha256.New, "sha256": sha256.New, "sha512": sha512.New, "sha1": sha1.New}

var encodings = map[string]func([]byte) string{"": hex.EncodeToString, "hex": hex.EncodeToString, "base64": base64.StdEncoding.EncodeToString}

// NewHMAC checks the configuration. The error is an *Error.
func NewHMAC(cfg HMACConfig) (*HMAC, error) {
	h := &HMAC{
		key: []byte(cfg.Key), hash: algorithms[cfg.Algorithm], encode: encodings[cfg.Encoding],
		header: cfg.Header, prefix: cfg.Prefix, over: slices.Clone(cfg.Over), separator: cfg.Separator,
		timeHeader: cfg.TimeHeader, now: time.Now,
	}
	if len(h.over) == 0 {
		h.over = []string{"body"}
	}
	if reason := h.check(); reason != "" {
		return nil, &Error{Code: CodeConfig, Reason: reason}
	}
	return h, nil
}

func (h *HMAC) check() string {
	switch {
	case len(h.key) == 0:
		return "the key is empty"
	case h.hash == nil:
		return "algorithm must be sha256, sha512 or sha1"
	case h.encode == nil:
		return "encoding must be hex or base64"
	case !isSettable(h.header):
		return "header must be the name of a header that requests can carry freely"
	case h.timeHeader != "" && (!isSettable(h.timeHeader) || strings.EqualFold(h.timeHeader, h.header)):
		return "time_header must be the name of a header that requests can carry freely, and not the signature's"
	case !httpguts.ValidHeaderFieldValue(h.prefix):
		return "prefix holds a character that no header can carry"
	case len(h.over) > maxParts:
		return fmt.Sprintf("over may have at most %d parts", maxParts)
	case slices.Contains(h.over, "timestamp") && h.timeHeader == "" && !strings.Contains(h.prefix, timeMark):
		return "over has the timestamp, so the server must be told it: set time_header, or put " + timeMark + " into prefix"
	}
	for i, part := range h.over {
		if !isPart(part) {
			return fmt.Sprintf("over[%d] must be body, method, path, query, timestamp, header:Name or text:…", i)
		}
	}
	return ""
}

// isSettable leaves out the headers that frame a request or name its server.
func isSettable(name string) bool {
	lower := strings.ToLower(name)
	return httpguts.ValidHeaderFieldName(name) && lower != "host" && lower != "content-length" && lower != "te" && !slices.Contains(unsent, lower)
}

func isPart(part string) bool {
	kind, arg, hasArg := strings.Cut(part, ":")
	switch kind {
	case "body", "method", "path", "query", "timestamp":
		return !hasArg
	case "header":
		return httpguts.ValidHeaderFieldName(arg)
	case "text":
		return hasArg
	}
	return false
}

// Sign sets the header to the signature, whatever the guest put there. It
// holds the body if that is signed. The error is an *Error or the body's own.
func (h *HMAC) Sign(r *http.Request) (used bool, err error) {
	var body []byte
	if slices.Contains(h.over, "body") {
		if body, err = h.budget.hold(r, maxHMACBody); err != nil {
			return false, err
		}
	}
	timestamp := strconv.FormatInt(h.now().Unix(), 10)
	r.Header.Del(h.header)
	if h.timeHeader != "" {
		r.Header.Set(h.timeHeader, timestamp)
	}
	m := hmac.New(h.hash, h.key)
	for i, part := range h.over {
		if i > 0 {
			m.Write([]byte(h.separator))
		}
		m.Write(partOf(r, part, timestamp, body))
	}
	r.Header.Set(h.header, strings.ReplaceAll(h.prefix, timeMark, timestamp)+h.encode(m.Sum(nil)))
	return true, nil
}

// partOf is one part of what is signed, as the server sees it.
func partOf(r *http.Request, part, timestamp string, body []byte) []byte {
	kind, arg, _ := strings.Cut(part, ":")
	switch kind {
	case "method":
		return []byte(cmp.Or(r.Method, http.MethodGet))
	case "path":
		return []byte(cmp.Or(r.URL.EscapedPath(), "/"))
	case "query":
		return []byte(r.URL.RawQuery)
	case "timestamp":
		return []byte(timestamp)
	case "header":
		values, _ := headerValues(r, strings.ToLower(arg))
		return []byte(strings.Join(values, ", "))
	case "text":
		return []byte(arg)
	}
	return body
}
