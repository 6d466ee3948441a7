package secret

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// A body is the same for readers of any size, those that it writes to at once
// among them.
func TestBodyInReadsOfAnySize(t *testing.T) {
	const value = "a-value-of-a-usual-length"
	find := redactorOf(value)
	rnd := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 10*pieceSize {
		text.WriteString(strings.Repeat("some text. ", rnd.IntN(2000)))
		text.WriteString(value)
	}
	want, _, err := replaceAll(find.redact(false), text.String())
	if err != nil || strings.Contains(want, value) {
		t.Fatal("the text was not redacted", err)
	}
	for _, size := range []int{100, pieceSize, pieceSize + 1, 64 << 10, 1 << 20} {
		for name, src := range map[string]io.Reader{"whole": strings.NewReader(text.String()), "halves": iotest.HalfReader(strings.NewReader(text.String()))} {
			b := &body{src: io.NopCloser(src), rw: find.redact(false)}
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{b}, make([]byte, size)); err != nil || got.String() != want {
				t.Errorf("reads of %d bytes, %s: another text, %v", size, name, err)
			}
		}
	}
	// What outgrows the reader's room.
	grows := &stream{find: find, put: func(dst []byte, _ match, _ []byte) ([]byte, error) {
		return append(dst, strings.Repeat("x", 1000)...), nil
	}}
	b := &body{src: io.NopCloser(strings.NewReader(strings.Repeat(value+" ", 20000))), rw: grows}
	got, err := io.ReadAll(b)
	if err != nil || len(got) != 20000*1001 {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	b = &body{src: io.NopCloser(strings.NewReader(strings.Repeat(value+" ", 20000))), rw: grows}
	var large bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&large}, struct{ io.Reader }{b}, make([]byte, 64<<10)); err != nil || !bytes.Equal(large.Bytes(), got) {
		t.Errorf("%d bytes came, %v", large.Len(), err)
	}
}
