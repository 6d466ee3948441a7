package secret

import (
	"net/http"
	"strconv"
	"strings"
)

// Respond puts placeholders back into a response, in place: header, body,
// content length and trailer. The error is a *Refusal; a body that streams may
// also fail with one while it is read.
func (x *Exchange) Respond(resp *http.Response) error {
	if x.redactor == nil {
		return nil
	}
	x.Inform(resp.Header)
	x.Inform(resp.Trailer)           // names only, as announced
	resp.Header.Del("Accept-Ranges") // requests for ranges are made ones for all
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return x.upgraded(resp)
	case x.hasNoBody(resp):
		x.pass(resp, nil)
		return nil
	}
	return x.redactBody(resp)
}

// pass sends a body on as it comes. Behind every body that net/http reads may
// be a trailer, also behind an empty one.
func (x *Exchange) pass(resp *http.Response, rw Rewriter) {
	if resp.Body == nil || resp.Body == http.NoBody {
		return
	}
	resp.Body = &body{src: resp.Body, rw: rw, done: func() error {
		x.Inform(resp.Trailer)
		return nil
	}}
}

// Inform puts placeholders into a header, in place. What has a value for its
// name goes.
func (x *Exchange) Inform(h http.Header) {
	if x.redactor == nil {
		return
	}
	redact := x.redactor.redact(false)
	for name, values := range h {
		if x.redactor.isInName(name) {
			delete(h, name)
		}
		for i, v := range values {
			values[i], _, _ = replaceAll(redact, v) // has no error
		}
	}
}

// upgraded lets a connection become a WebSocket, and nothing else.
func (x *Exchange) upgraded(resp *http.Response) error {
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || resp.Header.Get("Sec-Websocket-Extensions") != "" {
		return refuse(CodeResponseNotReadable, "the server changes to a protocol in which values can't be put back: use HTTP, or WebSocket without extensions")
	}
	return nil
}

// hasNoBody deals with responses that have a header only. A length in it may
// be that of a body which would be decoded.
func (x *Exchange) hasNoBody(resp *http.Response) bool {
	if x.method == http.MethodHead && resp.Header.Get("Content-Encoding") != "" {
		recoded(resp.Header, -1)
		resp.ContentLength = -1
	}
	return x.method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified ||
		resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0
}

func (x *Exchange) redactBody(resp *http.Response) error {
	codings, known := codingsOf(resp.Header)
	if !known {
		return refuse(CodeResponseNotReadable, "the server's content coding can't be read, and the response may hold a value: ask for gzip, deflate, br, zstd or identity with Accept-Encoding")
	}
	if len(codings) > 0 {
		resp.Body = decode(resp.Body, codings, CodeResponseNotReadable)
		resp.ContentLength = -1
		recoded(resp.Header, -1)
	}
	m := mediaOf(resp.Header.Get("Content-Type"))
	keep := !m.text || resp.StatusCode == http.StatusPartialContent || resp.ContentLength > maxWhole
	if !keep && resp.ContentLength >= 0 {
		size := resp.ContentLength
		if x.set.whole.take(size) {
			return x.redactWhole(resp, func() { x.set.whole.give(size) })
		}
		keep = true
	}
	var rw Rewriter = x.redactor.redact(keep)
	if m.grpc {
		rw = &messages{inner: rw}
	}
	x.pass(resp, rw)
	return nil
}

// redactWhole gives a body of known length its new one; release is called when
// it has been read.
func (x *Exchange) redactWhole(resp *http.Response, release func()) error {
	raw, _, err := readWhole(resp.Body, maxWhole)
	_ = resp.Body.Close()
	if err != nil {
		release()
		return refuse(CodeResponseNotReadable, "the server ended the response too early: try again")
	}
	out, changed, _ := replaceAll(x.redactor.redact(false), string(raw)) // has no error
	if changed {
		recoded(resp.Header, int64(len(out)))
		weaken(resp.Header)
	}
	resp.ContentLength = int64(len(out))
	resp.Header.Set("Content-Length", strconv.Itoa(len(out)))
	resp.Body = hold([]byte(out), release)
	x.Inform(resp.Trailer)
	return nil
}

// weaken says that the body is no longer byte by byte the server's.
func weaken(h http.Header) {
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
}
