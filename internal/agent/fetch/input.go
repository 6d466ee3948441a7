package fetch

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// parseURL accepts absolute http and https URLs.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil, invalid("Invalid URL: '%s'", raw)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, invalid("Url scheme '%s' not supported", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, invalid("Invalid URL: '%s'", raw)
	}
	if ascii, err := idna.Lookup.ToASCII(u.Hostname()); err == nil && ascii != u.Hostname() {
		u.Host = strings.Replace(u.Host, u.Hostname(), ascii, 1)
	}
	return u, nil
}

// parseMethod writes the well-known methods in upper case and leaves others
// alone, as https://fetch.spec.whatwg.org/#concept-method-normalize says.
func parseMethod(raw string) (string, error) {
	upper := strings.ToUpper(raw)
	switch upper {
	case "":
		return http.MethodGet, nil
	case "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT":
		return upper, nil
	case "CONNECT", "TRACE", "TRACK":
		return "", invalid("Method is forbidden: '%s'", raw)
	}
	if !httpguts.ValidHeaderFieldName(raw) { // methods and names are both tokens
		return "", invalid("Method is not valid: '%s'", raw)
	}
	return raw, nil
}

// connectionHeaders belong to the connection, not to the message; the
// transport sets them. Content-Length follows from the body.
var connectionHeaders = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true,
	"Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Expect": true,
}

// parseHeaders checks names and values and drops what the caller can't set.
func parseHeaders(pairs [][2]string) (http.Header, error) {
	header := http.Header{}
	for _, pair := range pairs {
		name, value := pair[0], strings.Trim(pair[1], " \t\r\n")
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, invalid("Invalid header name: '%s'", name)
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, invalid("Invalid header value of '%s'", name)
		}
		if !connectionHeaders[http.CanonicalHeaderKey(name)] {
			header.Add(name, value)
		}
	}
	return header, nil
}

// basic is the Authorization header for a URL's user and password.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
