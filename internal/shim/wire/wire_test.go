package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/gateway/secret"
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

// TestSecretsTravelOnTheWireOnly: their JSON is whole, every other form of
// them hides the values.
func TestSecretsTravelOnTheWireOnly(t *testing.T) {
	spec := Spec{ID: "sbx", Personal: Personal{
		AllowNet: &[]string{}, Secrets: Secrets{"K": {Hosts: []string{"h"}, Value: "hunter2", Sign: &secret.Sign{KeyID: "hunter2"}}},
	}}
	var buf bytes.Buffer
	if err := Write(&buf, spec); err != nil {
		t.Fatal(err)
	}
	var got Spec
	if err := Read(bufio.NewReader(&buf), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec.Personal, got.Personal); diff != "" {
		t.Error(diff)
	}
	request := Request{Op: OpConfigure, Personal: &spec.Personal}
	for _, shown := range []string{
		fmt.Sprintf("%v %+v %#v", spec, spec, spec), fmt.Sprintf("%v %+v %#v", spec.Personal, &spec.Personal, request.Personal),
		fmt.Sprintf("%v %x", spec.Secrets, spec.Secrets), fmt.Sprint(slog.Any("secrets", spec.Secrets)),
	} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("shown: %s", shown)
		}
	}
}

// keeper keeps what it is given, as no writer should.
type keeper struct{ got []byte }

func (k *keeper) Write(p []byte) (int, error) { k.got = p; return len(p), nil }

func TestWriteClearsWhatItEncoded(t *testing.T) {
	var k keeper
	if err := Write(&k, Request{Reason: "hunter2"}); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(k.got[:cap(k.got)], []byte("hunter2")) {
		t.Error("the line is still in memory")
	}
}
