package secret

import (
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// tidy removes what would let a server send a value in pieces, transformed or
// in a way that can't be read.
func tidy(h http.Header) {
	// With ranges, a reflected value could be read byte by byte.
	h.Del("Range")
	h.Del("Request-Range") // what Apache still takes for it
	h.Del("X-Ms-Range")    // Azure's
	h.Del("If-Range")
	h.Del("A-Im") // asks for differences instead of the whole
	// Digests of a response would confirm guesses of a value in it.
	h.Del("Want-Digest")
	h.Del("Want-Content-Digest")
	h.Del("Want-Repr-Digest")
	// Dictionaries of the guest's are unknown here.
	h.Del("Available-Dictionary")
	h.Del("Dictionary-Id")
	// Compressed messages can't be read.
	h.Del("Sec-Websocket-Extensions")
	if _, ok := h["Grpc-Accept-Encoding"]; ok {
		h.Set("Grpc-Accept-Encoding", "identity")
	}
	if accepted := h.Values("Accept-Encoding"); len(accepted) > 0 {
		h.Set("Accept-Encoding", readable(strings.Join(accepted, ",")))
	}
}

// readable keeps the codings of Accept-Encoding that can be decoded.
func readable(accepted string) string {
	var kept []string
	for item := range strings.SplitSeq(accepted, ",") {
		item = strings.TrimSpace(item)
		name, _, _ := strings.Cut(item, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, ok := decoders[name]; ok || name == "identity" {
			kept = append(kept, item)
		}
	}
	if kept == nil {
		return "identity"
	}
	return strings.Join(kept, ", ")
}

func asIs(s string) string { return s }

// normalise makes a header of credentials in the URL, which net/http would
// only do when it sends the request.
func normalise(r *http.Request) {
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if r.URL.User == nil {
		return
	}
	if password, _ := r.URL.User.Password(); r.Header.Get("Authorization") == "" {
		r.SetBasicAuth(r.URL.User.Username(), password)
	}
	r.URL.User = nil
}

// rewriteHead replaces in URL and header.
func (x *Exchange) rewriteHead(r *http.Request) error {
	if err := x.rewriteURL(r.URL); err != nil {
		return err
	}
	return x.rewriteHeader(r.Header)
}

func (x *Exchange) rewriteURL(u *url.URL) error {
	path, query := x.fill("path", url.PathEscape, percent), x.fill("query", url.QueryEscape, percent)
	opaque, _, err := replaceAll(path, u.Opaque)
	if err != nil {
		return err
	}
	raw, _, err := replaceAll(query, u.RawQuery)
	if err != nil {
		return err
	}
	escaped, changed, err := replaceAll(path, u.EscapedPath())
	if err != nil {
		return err
	}
	u.Opaque, u.RawQuery = opaque, raw
	if !changed {
		return nil
	}
	u.RawPath = escaped
	u.Path, err = url.PathUnescape(escaped)
	return err
}

// rewriteTrailer replaces in a trailer. Some servers add it to the header, so
// that nothing in it may authenticate where a secret is exclusive.
func (x *Exchange) rewriteTrailer(t http.Header) error {
	if x.exclusive() {
		maps.DeleteFunc(t, func(name string, _ []string) bool {
			return slices.ContainsFunc(credentialHeaders, func(known string) bool { return sameVariable(name, known) })
		})
	}
	return x.rewriteHeader(t)
}

func (x *Exchange) rewriteHeader(h http.Header) error {
	fill := x.fill("header", asIs)
	for _, values := range h {
		for i, v := range values {
			out, _, err := replaceAll(fill, v)
			if err == nil {
				out, err = rewriteBasic(fill, out)
			}
			if err != nil {
				return err
			}
			values[i] = out
		}
	}
	return nil
}

// rewriteBasic replaces within Basic credentials.
func rewriteBasic(fill *stream, value string) (string, error) {
	scheme, encoded, found := strings.Cut(strings.TrimSpace(value), " ")
	if !found || !strings.EqualFold(scheme, "basic") {
		return value, nil
	}
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(encoded), "="))
	if err != nil {
		return value, nil // nothing that a server would read
	}
	out, changed, err := replaceAll(fill, string(text))
	if err != nil || !changed {
		return value, err
	}
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(out)), nil
}
