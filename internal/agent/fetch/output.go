package fetch

import (
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// respond turns the last response into the caller's.
func respond(h *hop, res *http.Response) (*Response, error) {
	if res.StatusCode < 200 || res.StatusCode > 599 { // no Response can be made of it
		res.Body.Close()
		return nil, failed(h.url, "the server answered with status "+strconv.Itoa(res.StatusCode))
	}
	out := &Response{Status: res.StatusCode, StatusText: statusText(res)}
	if nullBody(h.method, res.StatusCode) {
		res.Body.Close()
	} else if out.Body = res.Body; h.decode && strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		out.Body = &gunzip{src: res.Body}
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
	}
	out.Headers = headerList(res.Header)
	return out, nil
}

// nullBody tells where the Fetch standard has no body at all.
func nullBody(method string, status int) bool {
	switch status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		return true
	}
	return method == http.MethodHead
}

// statusText is the reason phrase; HTTP/2 has none.
func statusText(res *http.Response) string {
	if res.ProtoMajor >= 2 {
		return ""
	}
	_, text, _ := strings.Cut(res.Status, " ")
	return text
}

// headerList sorts by name and keeps the order of equal names.
func headerList(header http.Header) [][2]string {
	list := [][2]string{}
	for name, values := range header {
		for _, v := range values {
			list = append(list, [2]string{strings.ToLower(name), v})
		}
	}
	slices.SortStableFunc(list, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return list
}

// gunzip decodes a body. It opens the coding at the first Read, so that a
// response is known before its body begins.
type gunzip struct {
	src io.ReadCloser
	dec *gzip.Reader
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.dec == nil {
		dec, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err // io.EOF for an empty body, which is fine
		}
		g.dec = dec
	}
	return g.dec.Read(p)
}

func (g *gunzip) Close() error { return g.src.Close() }
