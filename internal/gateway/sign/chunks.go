package sign

import (
	"bufio"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Bounds of a body of signed chunks.
const (
	maxChunk       = 16 << 20 // bytes of data
	maxChunkHead   = 256      // bytes of the line before it
	maxTrailerLine = 4 << 10  // bytes
	maxTrailer     = 32       // lines
)

const (
	chunkMark   = ";chunk-signature="
	trailerMark = "x-amz-trailer-signature"
	hexSize     = 64 // characters of a signature
)

// chain signs one chunk after the other: each signature is also over the one
// before.
type chain struct {
	claim *claim
	key   []byte
	last  string
}

func (c *chain) chunk(data string) string {
	return c.next(c.claim.stringToSign(algorithm+"-PAYLOAD", c.last, hexHash(nil), data))
}

func (c *chain) trailer(lines string) string {
	return c.next(c.claim.stringToSign(algorithm+"-TRAILER", c.last, lines))
}

func (c *chain) next(text string) string {
	c.last = hex.EncodeToString(mac(c.key, text))
	return c.last
}

// chunks is a body of signed chunks that are verified and signed again, one at
// a time: a chunk's signature comes before its data, so all of it is held.
// Close may be called while another goroutine reads.
type chunks struct {
	src      *bufio.Reader
	body     io.Closer
	old, new chain
	trailer  bool // signed lines follow the last chunk
	budget   *budget

	ready []byte // that may be read now; a part of buf
	buf   []byte
	err   error // after what is ready
	done  bool  // the last chunk was read

	mu     sync.Mutex // guards what follows
	taken  int64      // from the budget
	closed bool
}

// resignChunks puts the chunks of the guest's body under the real key. The
// request's own signature is what the first chunk follows.
func (a *AWS) resignChunks(r *http.Request, c *claim, signature string, trailer bool) {
	if r.Body == nil {
		return
	}
	r.Body, r.GetBody = &chunks{
		src:     bufio.NewReaderSize(r.Body, maxTrailerLine),
		body:    r.Body,
		old:     chain{c, signingKey(a.cfg.PlaceholderSecret, c), c.signature},
		new:     chain{c, signingKey(a.cfg.Secret, c), signature},
		trailer: trailer,
		budget:  &a.budget,
	}, nil
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.ready) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.err = c.step()
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

func (c *chunks) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.budget.give(c.taken)
	c.taken = 0
	return c.body.Close()
}

// step makes the next piece ready. What isn't verified never is.
func (c *chunks) step() error {
	if c.done {
		if _, err := c.src.ReadByte(); err == io.EOF {
			return io.EOF
		}
		return refuse(CodeChunk, "the body goes on after its last chunk")
	}
	head, size, err := c.readHead()
	if err != nil {
		return err
	}
	c.done = size == 0
	if c.done && c.trailer {
		return c.lastWithTrailer(head)
	}
	return c.chunk(head, size)
}

// readHead reads "10000;chunk-signature=…" and its line break.
func (c *chunks) readHead() (head string, size int64, err error) {
	line, err := c.readLine(maxChunkHead)
	if err != nil {
		return "", 0, err
	}
	digits, signature, ok := strings.Cut(strings.TrimSuffix(line, "\r\n"), chunkMark)
	n, err := strconv.ParseUint(digits, 16, 63)
	if !ok || err != nil || !strings.HasSuffix(line, "\r\n") || !validSignature.MatchString(signature) {
		return "", 0, refuse(CodeChunk, "a chunk must begin with its size, %q, 64 hexadecimal digits and a line break", chunkMark)
	}
	if n > maxChunk {
		return "", 0, refuse(CodeChunkSize, "a signed chunk may have at most %d MiB: set a smaller chunk size", maxChunk>>20)
	}
	return line, int64(n), nil
}

// chunk reads a chunk's data behind its head.
func (c *chunks) chunk(head string, size int64) error {
	if err := c.grow(int64(len(head)) + size + 2); err != nil {
		return err
	}
	c.buf = append(c.buf[:0], head...)
	whole := c.buf[:int64(len(head))+size+2]
	if _, err := io.ReadFull(c.src, whole[len(head):]); err != nil {
		return truncated(err)
	}
	data, end := whole[len(head):len(whole)-2], whole[len(whole)-2:]
	if string(end) != "\r\n" {
		return refuse(CodeChunk, "a chunk's data must end with a line break")
	}
	if err := c.resign(whole[:len(head)], hexHash(data)); err != nil {
		return err
	}
	c.ready = whole
	return nil
}

// resign verifies the signature at the end of a chunk's head and overwrites it.
func (c *chunks) resign(head []byte, data string) error {
	signature := head[len(head)-hexSize-2 : len(head)-2]
	if !hmac.Equal([]byte(c.old.chunk(data)), signature) {
		return refuse(CodeChunkMismatch, "a chunk doesn't match its signature: it was changed after it was signed, or another secret key was used")
	}
	copy(signature, c.new.chunk(data))
	return nil
}

// lastWithTrailer reads what follows the head of the last chunk: lines, and at
// their end one with their signature. Some clients put an empty line before
// that one.
func (c *chunks) lastWithTrailer(head string) error {
	out := []byte(head)
	if err := c.resign(out, hexHash(nil)); err != nil {
		return err
	}
	var signed strings.Builder
	for range maxTrailer {
		line, err := c.readLine(maxTrailerLine)
		if err != nil {
			return err
		}
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		name, value = strings.ToLower(name), strings.TrimSpace(value)
		switch {
		case name == trailerMark:
			return c.endTrailer(out, line, value, signed.String())
		case ok:
			signed.WriteString(name + ":" + value + "\n")
		case name != "":
			return refuse(CodeChunk, "the trailer must have lines of name, colon and value")
		}
		out = append(out, line...)
	}
	return refuse(CodeChunk, "the trailer has more than %d lines", maxTrailer)
}

func (c *chunks) endTrailer(out []byte, line, signature, signed string) error {
	digest := hexHash([]byte(signed))
	if !hmac.Equal([]byte(c.old.trailer(digest)), []byte(signature)) {
		return refuse(CodeChunkMismatch, "the trailer doesn't match its signature: it was changed after it was signed, or another secret key was used")
	}
	out = append(out, strings.Replace(line, signature, c.new.trailer(digest), 1)...)
	end, err := c.readLine(2)
	if err != nil {
		return err
	}
	if strings.TrimRight(end, "\r\n") != "" {
		return refuse(CodeChunk, "the trailer must end with an empty line")
	}
	out = append(out, end...)
	c.ready = out
	return nil
}

// readLine reads a line with its line break.
func (c *chunks) readLine(limit int) (string, error) {
	line, err := c.src.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || err == nil && len(line) > limit {
		return "", refuse(CodeChunk, "a line before or after the chunks is too long")
	}
	if err != nil {
		return "", truncated(err)
	}
	return string(line), nil
}

// truncated says what the end of the body means, where it isn't the end.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(CodeChunk, "the body ends before its last chunk is complete")
	}
	return err
}

// grow makes room for a chunk. What is taken for it is kept for the next.
func (c *chunks) grow(size int64) error {
	if size <= int64(cap(c.buf)) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return http.ErrBodyReadAfterClose
	}
	if err := c.budget.take(size - c.taken); err != nil {
		return err
	}
	c.taken, c.buf = size, make([]byte, 0, size)
	return nil
}
