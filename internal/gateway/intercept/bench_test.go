package intercept

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/secret"
)

const benchSize = 64 << 20 // bytes of one body

// BenchmarkOpened moves bodies and small requests through an opened
// connection, with a secret in a header and redaction on, beside the same
// client and server without anything between.
func BenchmarkOpened(b *testing.B) {
	f := newFront(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
			_, _ = fmt.Fprint(w, n)
		default:
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Length", fmt.Sprint(r.URL.Query().Get("n")))
			var n int
			_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
			block := make([]byte, 1<<20)
			for ; n > 0; n -= len(block) {
				_, _ = w.Write(block[:min(n, len(block))])
			}
		}
	}))
	set, err := secret.New(map[string]secret.Spec{"KEY": {Hosts: []string{f.up.String()}, Value: "a-value-of-a-usual-length-0123456789"}})
	if err != nil {
		b.Fatal(err)
	}
	f.to.SetSecrets(set)
	for name, addr := range map[string]string{"opened": f.listener.Addr().String(), "direct": f.up.String()} {
		for _, http2 := range []bool{false, true} {
			p := new(http.Protocols)
			p.SetHTTP1(!http2)
			p.SetHTTP2(http2)
			tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: p, DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10}
			visit := func(b *testing.B, method string, size int64, body io.Reader) {
				r, _ := http.NewRequestWithContext(b.Context(), method, fmt.Sprintf("https://%s/?n=%d", addr, size), body)
				r.Header.Set("Authorization", "Bearer "+set.Env()["KEY"])
				if body != nil {
					r.ContentLength = size
				}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || body == nil && n != size {
					b.Fatal(resp.Status, n, err)
				}
			}
			label := fmt.Sprintf("%s/http%d", name, map[bool]int{false: 1, true: 2}[http2])
			b.Run("download/"+label, func(b *testing.B) {
				b.SetBytes(benchSize)
				for b.Loop() {
					visit(b, http.MethodGet, benchSize, nil)
				}
			})
			b.Run("upload/"+label, func(b *testing.B) {
				b.SetBytes(benchSize)
				for b.Loop() {
					visit(b, http.MethodPut, benchSize, io.LimitReader(zeros{}, benchSize))
				}
			})
			b.Run("small/"+label, func(b *testing.B) {
				for b.Loop() {
					visit(b, http.MethodGet, 100, nil)
				}
			})
			tr.CloseIdleConnections()
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
