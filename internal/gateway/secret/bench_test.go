package secret

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

const prose = "The gateway of a sandbox reads requests and responses, and what it doesn't know goes nowhere; 42% of it is \"quoted\" & short.\n"

const markupLine = `<a href="/search?q=a%20b&amp;page=2" class="x">R&amp;D, caf&eacute;</a>` + "\n"

const jsonLine = `{"id":12345,"name":"a \"name\"","url":"https:\/\/example.com\/a\/b","text":"line\nline\u00e9"}` + "\n"

var texts = map[string][]byte{
	"prose":  []byte(strings.Repeat(prose, 1<<20/len(prose))),
	"html":   []byte(strings.Repeat(markupLine, 1<<20/len(markupLine))),
	"json":   []byte(strings.Repeat(jsonLine, 1<<20/len(jsonLine))),
	"base64": []byte(noise(1 << 20)),
	"binary": randomBytes(1 << 20),
}

func randomBytes(size int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

func benchmark(b *testing.B, rw Rewriter, text []byte) {
	b.SetBytes(int64(len(text)))
	dst := make([]byte, 0, 2*pieceSize)
	for b.Loop() {
		for rest := text; len(rest) > 0; {
			n := min(pieceSize, len(rest))
			var err error
			if dst, err = rw.Rewrite(dst[:0], rest[:n], n == len(rest)); err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
	}
}

// secretsOf makes values like API keys.
func secretsOf(count, size int) []string {
	all := make([]string, count)
	for i := range all {
		all[i] = fmt.Sprintf("sk-%d-", i) + noise(size * (i + 1))[size*i:][:size-5]
	}
	return all
}

func BenchmarkRedact(b *testing.B) {
	for _, count := range []int{1, 8, 64} {
		for _, size := range []int{8, 40} {
			f := redactorOf(secretsOf(count, size)...)
			for _, name := range []string{"prose", "html", "json", "base64", "binary"} {
				b.Run(fmt.Sprintf("secrets=%d/bytes=%d/%s", count, size, name), func(b *testing.B) {
					benchmark(b, f.redact(false), texts[name])
				})
			}
		}
	}
}

func BenchmarkFill(b *testing.B) {
	set := newSet(b, nil)
	for name, escapes := range map[string][]*escape{"prose": nil, "json": {slash}, "binary": nil} {
		x := begin(b, set, api, newRequest(b, "GET", "https://api.example.com/", ""))
		b.Run(name, func(b *testing.B) { benchmark(b, x.fill("body", asIs, escapes...), texts[name]) })
	}
}

// BenchmarkExchange is one request and response with small bodies.
func BenchmarkExchange(b *testing.B) {
	set := newSet(b, nil)
	key := set.Env()["KEY"]
	b.ReportAllocs()
	for b.Loop() {
		r := newRequest(b, "GET", "https://api.example.com/v1/things?page=2", "")
		r.Header = http.Header{"Authorization": {"Bearer " + key}, "User-Agent": {"curl/8.14.1"}, "Accept": {"*/*"}}
		x := begin(b, set, api, r)
		resp := newResponse("application/json", jsonLine, true)
		if err := x.Respond(resp); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEvents passes a stream in small pieces.
func BenchmarkEvents(b *testing.B) {
	rw := redactorOf(secretsOf(8, 40)...).redact(false)
	event := []byte("data: {\"choices\":[{\"delta\":{\"content\":\" word\"}}]}\n\n")
	b.SetBytes(int64(len(event)))
	dst := make([]byte, 0, pieceSize)
	for b.Loop() {
		dst, _ = rw.Rewrite(dst[:0], event, false)
	}
}
