package secret

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
)

const (
	maxWhole    = 1 << 20  // bytes of a body that is read whole, for its exact length
	maxUnpacked = 8 << 20  // bytes of such a body without its codings
	pieceSize   = 28 << 10 // so that what becomes of a piece fits into a reader's 32 KiB
)

// body passes a body through a Rewriter, piece by piece as they come.
type body struct {
	src  io.ReadCloser
	rw   Rewriter     // nil passes everything as it is
	done func() error // called once, when all has been read

	in, buf []byte // memory
	out     []byte // of the last piece, what hasn't been read
	err     error
}

func (b *body) Read(p []byte) (n int, err error) {
	for len(b.out) == 0 {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.rw == nil:
			return b.pass(p)
		case len(p) == 0:
			return 0, nil
		}
		b.out, b.err = b.next(b.room(p))
	}
	if n = len(b.out); n > len(p) || &b.out[0] != &p[0] {
		n = copy(p, b.out)
	}
	b.out = b.out[n:]
	return n, nil
}

// room is where a piece's bytes go: at once to a reader that has room for all
// but the largest.
func (b *body) room(p []byte) []byte {
	if len(p) > pieceSize {
		return p[:0:len(p)]
	}
	if b.buf == nil {
		b.buf = make([]byte, 0, pieceSize+pieceSize/8)
	}
	return b.buf[:0]
}

// pass reads what nobody rewrites.
func (b *body) pass(p []byte) (n int, err error) {
	if n, b.err = b.src.Read(p); b.err == io.EOF {
		if failed := b.finish(); failed != nil {
			b.err = failed
		}
	}
	return n, b.err
}

func (b *body) finish() error {
	if b.done == nil {
		return nil
	}
	return b.done()
}

// next reads one piece and appends what becomes of it. What is held back of a
// body that breaks is dropped.
func (b *body) next(dst []byte) ([]byte, error) {
	if b.in == nil {
		b.in = make([]byte, pieceSize)
	}
	n, err := b.src.Read(b.in)
	out, rewriting := b.rw.Rewrite(dst, b.in[:n], err == io.EOF)
	if rewriting != nil {
		return nil, rewriting
	}
	if err == io.EOF {
		if failed := b.finish(); failed != nil {
			return nil, failed
		}
	}
	return out, err
}

// Close implements io.Closer. It may be called while Read waits.
func (b *body) Close() error { return b.src.Close() }

// readWhole reads a body that has at most limit bytes; with ok false there are
// more.
func readWhole(src io.Reader, limit int64) (b []byte, ok bool, err error) {
	b, err = io.ReadAll(io.LimitReader(src, limit+1))
	return b, int64(len(b)) <= limit, err
}

// Digests of a body, which nobody would find right after a change.
var digests = []string{"Content-Md5", "Digest", "Content-Digest", "Repr-Digest"}

// recoded adapts a header to a body whose bytes are others now; size is
// negative when it isn't known.
func recoded(h http.Header, size int64) {
	h.Del("Content-Encoding")
	for _, name := range digests {
		h.Del(name)
	}
	resized(h, size)
}

func resized(h http.Header, size int64) {
	switch {
	case size < 0:
		h.Del("Content-Length")
	case h.Get("Content-Length") != "":
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
}

// rewriteBody replaces in a request's body and trailer.
func (x *Exchange) rewriteBody(r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	m := mediaOf(r.Header.Get("Content-Type"))
	codings, known := codingsOf(r.Header)
	small, may := r.ContentLength > 0 && r.ContentLength <= maxWhole, x.may("body")
	switch {
	case m.counted || !small && !m.text || len(codings) > 0 && !may || isChunkedByAWS(r.Header):
		if may {
			x.note("bodies of " + m.name + " that are large or hold lengths of their own aren't searched")
		}
		x.passBody(r, nil)
		return nil
	case !known:
		return refuse(CodeBodyNotReadable, "the content coding of the body can't be read, and it may hold a placeholder: send it with gzip, deflate, br or zstd, or with none")
	}
	if size := wholeSize(r.ContentLength, codings); small && may && x.set.whole.take(size) {
		return x.wholeBody(r, m, codings, func() { x.set.whole.give(size) })
	}
	if may && !m.text {
		x.note("a body wasn't searched: too many were sent at a time")
		x.passBody(r, nil)
		return nil
	}
	x.streamBody(r, m, codings)
	return nil
}

// wholeSize is how much memory a body may need.
func wholeSize(length int64, codings []string) int64 {
	if len(codings) > 0 {
		return maxUnpacked
	}
	return length
}

// isChunkedByAWS reports a body whose chunks have lengths of their own.
func isChunkedByAWS(h http.Header) bool {
	return bytes.Contains(bytes.ToLower([]byte(h.Get("Content-Encoding"))), []byte("aws-chunked"))
}

// passBody sends a body on as it comes.
func (x *Exchange) passBody(r *http.Request, rw Rewriter) {
	if rw == nil && r.Trailer == nil {
		return
	}
	r.Body = &body{src: r.Body, rw: rw, done: func() error { return x.rewriteTrailer(r.Trailer) }}
	r.GetBody = nil
}

// streamBody rewrites a body while it passes.
func (x *Exchange) streamBody(r *http.Request, m media, codings []string) {
	if len(codings) > 0 {
		r.Body = decode(r.Body, codings, CodeBodyNotReadable)
		recoded(r.Header, -1)
	}
	if x.may("body") {
		if r.ContentLength > 0 {
			x.note("sent in chunks: the length may change")
		}
		r.ContentLength = -1
		resized(r.Header, -1)
	}
	x.passBody(r, x.fill("body", m.write, m.escapes...))
}

// wholeBody rewrites a body at once; release is called when it has been sent.
// One that holds no placeholder goes out in its own coding.
func (x *Exchange) wholeBody(r *http.Request, m media, codings []string, release func()) error {
	raw, changed, err := x.fillWhole(r, m, codings)
	if err != nil {
		release()
		return err
	}
	if changed {
		recoded(r.Header, int64(len(raw)))
	}
	r.ContentLength = int64(len(raw))
	r.Body = hold(raw, release)
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	return x.rewriteTrailer(r.Trailer)
}

// fillWhole reads and rewrites a body.
func (x *Exchange) fillWhole(r *http.Request, m media, codings []string) (b []byte, changed bool, err error) {
	raw, _, err := readWhole(r.Body, maxWhole)
	_ = r.Body.Close()
	if err != nil {
		return nil, false, err
	}
	plain, ok, err := readWhole(decode(io.NopCloser(bytes.NewReader(raw)), codings, CodeBodyNotReadable), maxUnpacked)
	switch {
	case err != nil:
		return nil, false, err
	case !ok:
		return nil, false, refuse(CodeBodyNotReadable, "the body unpacks to more than %d bytes: send it in no content coding", maxUnpacked)
	}
	out, changed, err := replaceAll(x.fill("body", m.write, m.escapes...), string(plain))
	if err != nil || !changed {
		return raw, false, err
	}
	return []byte(out), true, nil
}
