//go:build e2e

package harness

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// reflect sends back what it finds in ValueHeader, between words so that it
// begins anywhere. The parameter "as" says how.
func reflect(w http.ResponseWriter, r *http.Request) {
	value := r.Header.Get(ValueHeader)
	text := "begin " + value + " end\n"
	as := r.FormValue("as")
	if encode, ok := spellings[as]; ok {
		_, _ = io.WriteString(w, encode(text))
		return
	}
	if code, ok := codings[as]; ok {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Encoding", strings.TrimPrefix(as, "raw-"))
		_, _ = w.Write(code([]byte(text)))
		return
	}
	if answer, ok := rude[as]; ok {
		answer(w, value)
		return
	}
	head := w.Header()
	switch as {
	case "header":
		head.Set("X-Reflected", value)
	case "location":
		head.Set("Location", "/next?key="+value)
		w.WriteHeader(http.StatusFound)
	case "cookie":
		head.Set("Set-Cookie", "session="+value+"; Path=/")
	case "trailer":
		head.Set("Trailer", "X-Reflected")
		_, _ = io.WriteString(w, "see below\n")
		head.Set("X-Reflected", value)
	case "chunked":
		pieces(w, text, 1, 0)
	case "slow":
		pieces(w, text, 7, time.Millisecond)
	case "sse":
		head.Set("Content-Type", "text/event-stream")
		pieces(w, "data: "+value+"\n\ndata: done\n\n", 5, time.Millisecond)
	case "error":
		http.Error(w, "bad key "+value, http.StatusUnauthorized)
	default:
		_, _ = io.WriteString(w, text)
	}
}

// pieces sends a text in pieces of their own.
func pieces(w http.ResponseWriter, text string, size int, pause time.Duration) {
	out := http.NewResponseController(w)
	for len(text) > 0 {
		part := text[:min(size, len(text))]
		text = text[len(part):]
		_, _ = io.WriteString(w, part)
		_ = out.Flush()
		time.Sleep(pause) // a server that is slow
	}
}

// spellings are other ways to write a text.
var spellings = map[string]func(string) string{
	"base64":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) + "\n" },
	"base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) + "\n" },
	"hex":       func(s string) string { return hex.EncodeToString([]byte(s)) + "\n" },
	"html":      func(s string) string { return html.EscapeString(s) },
	"percent":   percent,
	"json": func(s string) string {
		raw, _ := json.Marshal(map[string]string{"key": s}) // of strings
		return string(raw) + "\n"
	},
	"json-escaped": func(s string) string {
		var out strings.Builder
		for _, c := range s {
			fmt.Fprintf(&out, `\u%04x`, c)
		}
		return `{"key": "` + out.String() + "\"}\n"
	},
}

func percent(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&out, "%%%02X", c)
	}
	return out.String()
}

// codings are content codings.
var codings = map[string]func([]byte) []byte{
	"gzip": func(b []byte) []byte {
		return written(b, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	},
	"deflate": func(b []byte) []byte {
		return written(b, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
	},
	"raw-deflate": func(b []byte) []byte {
		return written(b, func(w io.Writer) io.WriteCloser { z, _ := flate.NewWriter(w, 9); return z }) // 9 is a level
	},
	"zstd": func(b []byte) []byte {
		return written(b, func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }) // no option can be wrong
	},
	"br": stored,
}

func written(b []byte, coder func(io.Writer) io.WriteCloser) []byte {
	var out bytes.Buffer
	w := coder(&out)
	_, _ = w.Write(b) // a Buffer takes all
	_ = w.Close()
	return out.Bytes()
}

// stored is a Brotli stream (RFC 7932) of one meta-block that is not
// compressed, of at most 64 KiB.
func stored(b []byte) []byte {
	head := uint32(len(b)-1)<<4 | 1<<20
	out := append([]byte{byte(head), byte(head >> 8), byte(head >> 16)}, b...)
	return append(out, 3) // an empty last one
}
