package secret

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

const (
	maxCodings = 3       // on top of each other
	maxZstd    = 8 << 20 // bytes of window, RFC 8878's recommendation; brotli's are at most 16 MiB
)

// decoders are the content codings that can be read. None needs to be closed.
// What a coding expands to only streams through, however much it is.
var decoders = map[string]func(*bufio.Reader) (io.Reader, error){
	"gzip":    func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"x-gzip":  func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"deflate": inflate,
	"br":      func(r *bufio.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
	"zstd": func(r *bufio.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstd))
	},
}

// inflate reads deflate with zlib's header, as it should be, or without.
func inflate(r *bufio.Reader) (io.Reader, error) {
	head, err := r.Peek(2)
	if err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(r)
	}
	return flate.NewReader(r), nil
}

// neutral are names in Content-Encoding of what changes nothing that matters
// to a search; some servers write nonsense.
var neutral = map[string]bool{"": true, "identity": true, "none": true, "binary": true, "utf-8": true, "aws-chunked": true}

// codingsOf are the codings of a body, in the order applied; known reports
// whether all of them can be read.
func codingsOf(h http.Header) (codings []string, known bool) {
	known = true
	for name := range strings.SplitSeq(strings.Join(h.Values("Content-Encoding"), ","), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if neutral[name] {
			continue
		}
		_, ok := decoders[name]
		known = known && ok
		codings = append(codings, name)
	}
	return codings, known && len(codings) <= maxCodings
}

// decode undoes codings. Broken ones make a *Refusal with the given code.
func decode(src io.ReadCloser, codings []string, code string) io.ReadCloser {
	for i := len(codings) - 1; i >= 0; i-- {
		src = &decoded{src: &watched{ReadCloser: src}, coding: codings[i], code: code}
	}
	return src
}

// decoded undoes one coding. It begins with the first Read, so that a header
// isn't held up by a body that takes its time.
type decoded struct {
	src          *watched
	coding, code string
	in           *bufio.Reader
	r            io.Reader
}

// watched remembers the error of its reader.
type watched struct {
	io.ReadCloser
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.err = err
	return n, err
}

func (d *decoded) Read(p []byte) (int, error) {
	n, err := d.read(p)
	if err == io.EOF && d.r != nil {
		err = d.finish()
	}
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case d.src.err != nil && d.src.err != io.EOF:
		return n, d.src.err
	}
	return n, refuse(d.code, "the body is no valid %s: send it in another coding, or in none", d.coding)
}

func (d *decoded) read(p []byte) (int, error) {
	if d.r == nil {
		d.in = bufio.NewReaderSize(d.src, 16<<10)
		if _, err := d.in.Peek(1); err != nil {
			return 0, err // also for nothing at all, whatever its coding
		}
		r, err := decoders[d.coding](d.in)
		if err != nil {
			return 0, err
		}
		d.r = r
	}
	return d.r.Read(p)
}

var errMore = errors.New("there is more than the coding says")

// finish reads the end of what was encoded. Only then a trailer is known.
func (d *decoded) finish() error {
	if _, err := d.in.ReadByte(); err != nil {
		return err
	}
	return errMore
}

// Close implements io.Closer. It may be called while Read waits.
func (d *decoded) Close() error { return d.src.Close() }
