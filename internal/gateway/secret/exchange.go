package secret

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/atollhq/atoll/internal/gateway/sign"
)

// Dest is where a request goes.
type Dest struct {
	Name string     // in normal form; empty when only the address is known
	Addr netip.Addr // of the connection, where Name is empty
	Port uint16
	// Verified says that the connection is TLS to a server whose certificate
	// was verified. Nothing else ever carries a value.
	Verified bool
}

// Refusal is why a request, or its response, must not be passed on.
type Refusal struct {
	Code   string // stable, such as "SECRET_NEEDS_TLS"
	Reason string // a sentence that says what to do; holds no value
}

func (r *Refusal) Error() string { return r.Reason }

// Codes of refusals.
const (
	CodeNeedsTLS            = "SECRET_NEEDS_TLS"
	CodeExclusive           = "SECRET_EXCLUSIVE"
	CodeMethodRefused       = "METHOD_REFUSED"
	CodeBodyNotReadable     = "BODY_NOT_READABLE"
	CodeResponseNotReadable = "RESPONSE_NOT_READABLE"
	CodeSigningFailed       = "SIGNING_FAILED"
)

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// Exchange is one request and its response. Begin rewrites the one, Respond
// the other; then the accessors say what happened, also while bodies are still
// passing through. An Exchange's methods may be called concurrently.
type Exchange struct {
	set      *Set
	dest     Dest
	method   string
	covering []*one   // secrets of this destination
	outside  []string // by secret: why this request may not carry it; empty when it may
	redactor *finder  // of the covering secrets' values; nil when there are none

	mu    sync.Mutex
	used  map[string]bool
	notes []string
}

// Begin prepares a request to leave: it replaces placeholders and signs, in
// place. It may change r's URL, header, body, content length and trailer, and
// nothing else. The error is a *Refusal, or the guest's body's own; a body that
// streams may also fail with a *Refusal while it is read. A nil Set changes
// nothing.
func (s *Set) Begin(d Dest, r *http.Request) (*Exchange, error) {
	x := &Exchange{set: s, dest: d, method: r.Method, used: map[string]bool{}}
	if s == nil || len(s.secrets) == 0 {
		return x, nil
	}
	normalise(r)
	x.judge(r)
	if len(x.covering) > 0 {
		if err := x.admit(r); err != nil {
			return nil, err
		}
		tidy(r.Header)
	}
	for _, step := range []func(*http.Request) error{x.rewriteHead, x.rewriteBody, x.sign} {
		if err := step(r); err != nil {
			if r.Body != nil {
				_ = r.Body.Close() // nobody will send it
			}
			return nil, err
		}
	}
	return x, nil
}

// judge finds out which secrets the request may carry.
func (x *Exchange) judge(r *http.Request) {
	asked := ask(r)
	x.outside = make([]string, len(x.set.secrets))
	for i, o := range x.set.secrets {
		if !o.covers(x.dest.Name, x.dest.Addr, x.dest.Port) {
			x.outside[i] = "not its host"
			continue
		}
		x.covering = append(x.covering, o)
		x.outside[i] = o.outside(asked)
	}
	if len(x.covering) > 0 {
		x.redactor = x.set.redactor(x.covering)
	}
}

// admit refuses requests to hosts of secrets that would get around them.
func (x *Exchange) admit(r *http.Request) error {
	switch strings.ToUpper(r.Method) {
	case "TRACE", "TRACK":
		// Their response repeats the request, in whatever form.
		return refuse(CodeMethodRefused, "%s shows a server's view of a request and is refused at hosts of secrets: use another method", r.Method)
	}
	for _, o := range x.covering {
		if !o.spec.Exclusive {
			continue
		}
		if what := x.set.foreignCredentials(r); what != "" {
			return refuse(CodeExclusive, "%s authenticates with something else than a placeholder, which the secret %s excludes at this host: remove it", what, o.name)
		}
	}
	return nil
}

func (x *Exchange) exclusive() bool {
	return slices.ContainsFunc(x.covering, func(o *one) bool { return o.spec.Exclusive })
}

// sign has the secrets sign that do.
func (x *Exchange) sign(r *http.Request) error {
	for _, o := range x.covering {
		switch {
		case o.signer == nil || x.outside[o.index] != "":
			continue
		case !x.dest.Verified:
			x.note("not signed with " + o.name + ": the connection is not verified TLS")
			continue
		}
		used, err := o.signer.Sign(r)
		if err != nil {
			return unsigned(o.name, err)
		}
		if used {
			x.use(o)
		}
	}
	return nil
}

// unsigned is why a request could not be signed.
func unsigned(name string, err error) error {
	if no, ok := errors.AsType[*sign.Error](err); ok {
		return refuse(no.Code, "the request can't be signed with %s: %s", name, no.Reason)
	}
	return refuse(CodeSigningFailed, "the request can't be signed with %s: %s", name, err)
}

// why says why a secret may not be in a part of the request; empty when it may.
func (x *Exchange) why(o *one, part string) string {
	switch {
	case x.outside[o.index] != "":
		return x.outside[o.index]
	case len(o.spec.In) > 0 && !slices.Contains(o.spec.In, part):
		return "not for the " + part
	}
	return ""
}

// may reports whether any value may be in a part of the request.
func (x *Exchange) may(part string) bool {
	return slices.ContainsFunc(x.covering, func(o *one) bool { return o.signer == nil && x.why(o, part) == "" })
}

// fill makes a stream that puts values into a part of the request, written in
// the way of that part. Escaped placeholders are found with the escapes.
func (x *Exchange) fill(part string, write func(string) string, escapes ...*escape) *stream {
	put := func(dst []byte, m match, text []byte) ([]byte, error) {
		h := x.set.holders[m.needle]
		why := x.why(h.one, part)
		switch {
		case why != "":
			x.note("placeholder of " + h.name + " left as it is: " + why)
			return append(dst, text...), nil
		case !x.dest.Verified:
			return nil, refuse(CodeNeedsTLS, "the value of %s leaves only over TLS to a server whose certificate is verified: use https", h.name)
		case h.signer != nil: // what it stands for is not sent; the signer looks for it
			return append(dst, text...), nil
		}
		x.use(h.one)
		return append(dst, write(h.spec.Value)...), nil
	}
	return &stream{find: x.set.find.within(escapes...), put: put}
}

func (x *Exchange) use(o *one) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.used[o.name] = true
}

const maxNotes = 16

func (x *Exchange) note(text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.notes) < maxNotes && !slices.Contains(x.notes, text) {
		x.notes = append(x.notes, text)
	}
}

// Secrets are the names of the secrets whose values were sent or that signed,
// sorted.
func (x *Exchange) Secrets() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.used))
}

// Note is what else the audit should know, such as that a placeholder was left
// as it is; empty for nothing.
func (x *Exchange) Note() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Join(x.notes, "; ")
}
