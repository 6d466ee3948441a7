package secret

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// flusher is what all encoders are.
type flusher interface {
	io.WriteCloser
	Flush() error
}

var writers = map[string]func(io.Writer) flusher{
	"gzip":         func(w io.Writer) flusher { return gzip.NewWriter(w) },
	"deflate":      func(w io.Writer) flusher { return zlib.NewWriter(w) },
	"deflate, raw": func(w io.Writer) flusher { f, _ := flate.NewWriter(w, 6); return f },
	"br":           func(w io.Writer) flusher { return brotli.NewWriter(w) },
	"zstd":         func(w io.Writer) flusher { z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); return z },
}

// encoders encode at once, by the name in Content-Encoding.
var encoders = map[string]func(string) string{
	"gzip": encodeWith("gzip"), "x-gzip": encodeWith("gzip"), "deflate": encodeWith("deflate"), " Deflate ": encodeWith("deflate, raw"),
	"br": encodeWith("br"), "zstd": encodeWith("zstd"), "identity, gzip": encodeWith("gzip"),
	"br, gzip": func(s string) string { return encodeWith("gzip")(encodeWith("br")(s)) },
}

func encodeWith(name string) func(string) string {
	return func(s string) string {
		var out bytes.Buffer
		w := writers[name](&out)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return out.String()
	}
}

// noise is text that can't be compressed much.
func noise(size int) string {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, size)
	for i := range out {
		out[i] = common[r.IntN(len(common))]
	}
	return string(out)
}

// TestCodingsStream flushes events into each coding and wants each one at once.
func TestCodingsStream(t *testing.T) {
	for name, newWriter := range writers {
		from, to := io.Pipe()
		w := newWriter(to)
		coding, _, _ := strings.Cut(name, ",")
		r := decode(from, []string{coding}, CodeResponseNotReadable)
		events := make(chan string)
		go func() {
			for event := range events {
				_, _ = io.WriteString(w, event)
				_ = w.Flush()
			}
		}()
		p := make([]byte, 100)
		for _, event := range []string{"data: one\n\n", "data: two\n\n", noise(80)} {
			events <- event
			if n, err := io.ReadFull(r, p[:len(event)]); err != nil || string(p[:n]) != event {
				t.Errorf("%s: %q, %v; want %q", name, p[:n], err, event)
			}
		}
		close(events)
		_ = r.Close()
	}
}

func FuzzDecode(f *testing.F) {
	names := []string{"gzip", "deflate", "br", "zstd"}
	for i, name := range names {
		f.Add(uint8(i), []byte(encoders[name]("some text, some text, some text")))
		f.Add(uint8(i*5), []byte(encoders[name]("")))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		codings := []string{names[which%4]}
		if which >= 4 {
			codings = append(codings, names[which/4%4])
		}
		r := decode(io.NopCloser(bytes.NewReader(b)), codings, CodeBodyNotReadable)
		_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if err != nil {
			wantRefusal(t, err, CodeBodyNotReadable)
		}
	})
}
