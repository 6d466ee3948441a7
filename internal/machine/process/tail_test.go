package process

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
)

const tailBytes = 4 << 10

func TestTailIsBoundedAndClean(t *testing.T) {
	tail := NewTail(tailBytes)
	for _, s := range []string{"early ", "\x1b[31m", "\u009b31m \u202e", "\xff\x00one\r\ntwo\té\n"} {
		if n, err := tail.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if got, want := tail.String(), "early [31m31m one\ntwoé"; got != want {
		t.Errorf("tail is %q; want %q", got, want)
	}
	for _, size := range []int{1, tailBytes - 1, tailBytes, tailBytes + 1, 3 * tailBytes} {
		_, _ = tail.Write(bytes.Repeat([]byte("x"), size))
		_, _ = tail.Write([]byte("the end"))
		if got := tail.String(); len(got) > tailBytes || cap(tail.buf) > 4*tailBytes || !strings.HasSuffix(got, "xthe end") {
			t.Errorf("after %d bytes %d are kept, in %d", size, len(got), cap(tail.buf))
		}
	}
}

// FuzzTail: what is kept of a console is bounded and prints.
func FuzzTail(f *testing.F) {
	f.Add([]byte("plain\n"), []byte("\x1b[2J\xc2"))
	f.Add([]byte("\xc2"), []byte("\x9b\xe2\x80\xae"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tail := NewTail(tailBytes)
		_, _ = tail.Write(a)
		_, _ = tail.Write(b)
		text := tail.String()
		if len(text) > tailBytes {
			t.Errorf("%d bytes", len(text))
		}
		for _, r := range text {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%q", r)
			}
		}
	})
}
