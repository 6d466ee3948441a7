package sign

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// form is how a client wrote down path and query to sign them.
type form struct{ path, query string }

// forms are the ways in which the known clients do it. AWS documents one; the
// SDKs differ where a path has dots, empty segments or characters that they
// leave as they are, and where a query has a plus.
func forms(service, escapedPath, query string) []form {
	var all []form
	for _, p := range paths(service, escapedPath) {
		for _, q := range queries(query) {
			if f := (form{p, q}); !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	return all
}

// objectStores sign a path as it is sent, and no body of a presigned request.
var objectStores = []string{"s3", "s3express", "s3-object-lambda", "s3-outposts"}

// paths: object stores have the path encoded once; all other services clean it
// and encode it a second time.
func paths(service, sent string) []string {
	sent = cmp.Or(sent, "/")
	if !slices.Contains(objectStores, service) {
		return []string{escapePath(clean(sent)), escapePath(sent)}
	}
	plain, err := url.PathUnescape(sent)
	if err != nil {
		return []string{sent}
	}
	return []string{sent, escapePath(plain)}
}

// clean removes dot segments and empty ones, but not a slash at the end.
func clean(p string) string {
	cleaned := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned
}

// queries: as it is but sorted, or encoded anew, where a plus stands for
// itself or for a space.
func queries(raw string) []string {
	anew := func(decode func(string) (string, error)) func(string) (string, error) {
		return func(s string) (string, error) {
			plain, err := decode(s)
			return escape(plain), err
		}
	}
	var all []string
	for _, encode := range []func(string) (string, error){anew(url.PathUnescape), asItIs, anew(url.QueryUnescape)} {
		if q, err := sortQuery(raw, encode); err == nil {
			all = append(all, q)
		}
	}
	return all
}

func asItIs(s string) (string, error) { return s, nil }

// sortQuery sorts by name, then value, and leaves the signature out.
func sortQuery(raw string, encode func(string) (string, error)) (string, error) {
	var pairs [][2]string
	for pair := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key, err := encode(key)
		if err != nil {
			return "", err
		}
		if value, err = encode(value); err != nil {
			return "", err
		}
		if pair != "" && key != paramSignature {
			pairs = append(pairs, [2]string{key, value})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	parts := make([]string, len(pairs))
	for i, p := range pairs {
		parts[i] = p[0] + "=" + p[1]
	}
	return strings.Join(parts, "&"), nil
}

// escape encodes all but RFC 3986's unreserved characters.
func escape(s string) string { return escapeBut(s, "-_.~") }

func escapePath(s string) string { return escapeBut(s, "-_.~/") }

func escapeBut(s, keep string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		const digits = "0123456789ABCDEF"
		b.Write([]byte{'%', digits[c>>4], digits[c&15]})
	}
	return b.String()
}

// canonicalRequest is the text whose hash is signed.
func canonicalRequest(r *http.Request, f form, signed []string, payload string) string {
	var b strings.Builder
	method := cmp.Or(r.Method, http.MethodGet)
	b.WriteString(method + "\n" + f.path + "\n" + f.query + "\n")
	for _, name := range signed {
		values, _ := headerValues(r, name)
		for i, v := range values {
			values[i] = strings.Join(strings.Fields(v), " ")
		}
		b.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + payload)
	return b.String()
}

// unsent are headers that end at the gateway, wherever the request's fields
// still have them.
var unsent = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer", "upgrade"}

// headerValues are the values that the server gets of a header, as a copy; it
// reports whether the header is sent at all.
func headerValues(r *http.Request, name string) ([]string, bool) {
	switch {
	case name == "host":
		return []string{cmp.Or(r.Host, r.URL.Host)}, true
	case name == "content-length":
		sent := r.ContentLength > 0 || r.ContentLength == 0 && r.Header.Get(name) != ""
		if !sent {
			return nil, false
		}
		return []string{strconv.FormatInt(r.ContentLength, 10)}, true
	case slices.Contains(unsent, name):
		return nil, false
	}
	values := r.Header.Values(name)
	return slices.Clone(values), len(values) > 0
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// signingKey derives the key of a claim's day, region and service.
func signingKey(secret string, c *claim) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{c.day, c.region, c.service, terminator} {
		key = mac(key, part)
	}
	return key
}

// stringToSign is what a signature of the given kind is over.
func (c *claim) stringToSign(kind string, parts ...string) string {
	return strings.Join(append([]string{kind, c.at.Format(timeFormat), c.scope()}, parts...), "\n")
}

// sign returns the signature of a request, in hexadecimal.
func (c *claim) sign(key []byte, r *http.Request, f form, payload string) string {
	text := canonicalRequest(r, f, c.signed, payload)
	return hex.EncodeToString(mac(key, c.stringToSign(algorithm, hexHash([]byte(text)))))
}
