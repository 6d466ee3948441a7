package secret

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// asked is what a request asks of the server, as far as methods and paths say
// which requests may carry a secret.
type asked struct {
	methods []string // all that the server may act on
	path    []string // segments
	clear   bool     // whether the path can be read in one way only
}

// Headers and parameters by which servers let a client name another method or
// another path than the request line's.
var (
	methodHeaders = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}
	pathHeaders   = []string{"X-Original-Url", "X-Rewrite-Url"}
	// Google's take any header in a parameter, too, which is no method that
	// would be allowed.
	methodParams = []string{"_method", "$httpmethod", "$httpheaders"} // compared without case
)

func ask(r *http.Request) asked {
	a := asked{methods: []string{r.Method}}
	if r.Method == "" {
		a.methods[0] = http.MethodGet
	}
	for _, name := range methodHeaders {
		a.methods = append(a.methods, valuesOf(r.Header, name)...)
	}
	eachParam(r.URL.RawQuery, func(name, value string) {
		if slices.Contains(methodParams, strings.ToLower(name)) {
			a.methods = append(a.methods, strings.ToUpper(value))
		}
	})
	a.path, a.clear = cleanPath(r.URL.EscapedPath())
	for _, name := range pathHeaders {
		a.clear = a.clear && len(valuesOf(r.Header, name)) == 0
	}
	a.clear = a.clear && r.URL.Opaque == ""
	return a
}

// valuesOf are the values of all headers that a server may take for the named
// one: those that hand them on as variables (CGI) know no dashes.
func valuesOf(h http.Header, name string) (all []string) {
	for other, values := range h {
		if sameVariable(other, name) {
			all = append(all, values...)
		}
	}
	return all
}

func sameVariable(header, name string) bool {
	return len(header) == len(name) && strings.EqualFold(strings.ReplaceAll(header, "_", "-"), name)
}

// outside says why such a request may not carry the secret; empty when it may.
func (o *one) outside(a asked) string {
	if len(o.spec.Methods) > 0 && !o.allowsMethods(a.methods) {
		return "not in methods"
	}
	if len(o.paths) > 0 && (!a.clear || !slices.ContainsFunc(o.paths, func(p pattern) bool { return p.match(a.path) })) {
		return "not in paths"
	}
	return ""
}

func (o *one) allowsMethods(methods []string) bool {
	for _, m := range methods {
		if !slices.ContainsFunc(o.spec.Methods, func(allowed string) bool { return strings.ToUpper(allowed) == m }) {
			return false
		}
	}
	return true
}

// eachParam walks the parameters of a query as the most lenient server would:
// a semicolon separates, too, and a broken escape stands for itself.
func eachParam(query string, visit func(name, value string)) {
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		visit(unescaped(name), unescaped(value))
	}
}

func unescaped(s string) string {
	if out, err := url.QueryUnescape(s); err == nil {
		return out
	}
	return s
}
