package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLineRoundTripLeavesTheRest(t *testing.T) {
	var buf bytes.Buffer
	if err := Write(&buf, Request{Op: OpStop, Reason: "killed"}); err != nil {
		t.Fatal(err)
	}
	buf.WriteString("the bytes of a stream")
	in := bufio.NewReaderSize(iotest.OneByteReader(&buf), 16)
	var got Request
	if err := Read(in, &got); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(in)
	if err != nil || got.Op != OpStop || got.Reason != "killed" || string(rest) != "the bytes of a stream" {
		t.Errorf("got %+v and %q (%v)", got, rest, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in   io.Reader
		want error
	}{
		"nothing":      {strings.NewReader(""), io.EOF},
		"half a line":  {strings.NewReader(`{"op":`), io.ErrUnexpectedEOF},
		"endless line": {io.LimitReader(endless{}, MaxLine+1<<20), ErrLineTooLong},
	} {
		var r Request
		if err := Read(bufio.NewReader(c.in), &r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
	var r Request
	if err := Read(bufio.NewReader(strings.NewReader("[]\n")), &r); err == nil {
		t.Error("a list was taken for a request")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
