package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a link.
func pair(t *testing.T) (host, guest *Session) {
	t.Helper()
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() {
		var err error
		guest, err = Serve(b)
		served <- err
	}()
	host, err := Open(t.Context(), a, 7)
	if err = errors.Join(err, <-served); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = host.Close(), guest.Close() })
	return host, guest
}

func TestStreamArrivesWithItsPreamble(t *testing.T) {
	host, guest := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := host.Dial(ctx, KindRPC, RPCHeader{MaxMessage: 42})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := guest.Accept()
	if err != nil {
		t.Fatal(err)
	}
	st, err := ReadPreamble(raw)
	if err != nil {
		t.Fatal(err)
	}
	var header RPCHeader
	if err := json.Unmarshal(st.Header, &header); err != nil {
		t.Fatal(err)
	}
	if st.Kind != KindRPC || st.Generation != 7 || header.MaxMessage != 42 {
		t.Errorf("got kind %d, generation %d, header %+v", st.Kind, st.Generation, header)
	}
	go func() { _ = SendControl(conn, Ready{Version: "v"}); _ = conn.Close() }()
	var ready Ready
	if err := ReceiveControl(st, &ready); err != nil || ready.Version != "v" {
		t.Errorf("control message: %+v, %v", ready, err)
	}
}

// TestControlMessages: the agent can tell them apart.
func TestControlMessages(t *testing.T) {
	update, resume, frozen, thawed := Update{ExtraRoots: "roots"}, Resume{Generation: 2}, Freeze{Frozen: true}, Freeze{}
	for name, c := range map[string]struct {
		send func(io.Writer) error
		want ToAgent
	}{
		"config": {func(w io.Writer) error { return SendControl(w, Config{Generation: 1}) }, ToAgent{Config: Config{Generation: 1}}},
		"update": {func(w io.Writer) error { return SendUpdate(w, update) }, ToAgent{Update: &update}},
		"resume": {func(w io.Writer) error { return SendResume(w, resume) }, ToAgent{Resume: &resume}},
		"freeze": {func(w io.Writer) error { return SendFreeze(w, frozen) }, ToAgent{Freeze: &frozen}},
		"thaw":   {func(w io.Writer) error { return SendFreeze(w, thawed) }, ToAgent{Freeze: &thawed}},
	} {
		var sent bytes.Buffer
		if err := c.send(&sent); err != nil {
			t.Fatal(err)
		}
		var got ToAgent
		if err := ReceiveControl(&sent, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestOversizedHeaderIsRefused(t *testing.T) {
	if _, err := encodePreamble(KindRPC, 1, strings.Repeat("x", maxHeader)); err == nil {
		t.Error("accepted")
	}
}

func TestMessages(t *testing.T) {
	for _, size := range []int{0, 1, MaxFrame, MaxFrame + 1, 3*MaxFrame + 5} {
		want := bytes.Repeat([]byte("m"), size)
		var buf bytes.Buffer
		if err := WriteMessage(&buf, want); err != nil {
			t.Fatal(err)
		}
		got, err := NewFrameReader(&buf).ReadMessage(4 * MaxFrame)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !cmp.Equal(want, got, cmp.Transformer("len", func(b []byte) int { return len(b) })) || !bytes.Equal(want, got) {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
}

func TestMessageLimits(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"end at a boundary":  {nil, io.EOF},
		"end in the header":  {[]byte{0, 0}, io.ErrUnexpectedEOF},
		"end in the frame":   {[]byte{0, 0, 0, 9, 'x'}, io.ErrUnexpectedEOF},
		"end in the message": {AppendFrame(nil, []byte("ab"), true), io.ErrUnexpectedEOF},
		"frame too large":    {[]byte{0x7f, 0xff, 0xff, 0xff}, ErrFrameTooLarge},
		"message too large":  {AppendFrame(nil, make([]byte, 11), false), ErrMessageTooLarge},
		"sum too large":      {AppendFrame(AppendFrame(nil, make([]byte, 6), true), make([]byte, 6), false), ErrMessageTooLarge},
	} {
		if _, err := NewFrameReader(bytes.NewReader(c.in)).ReadMessage(10); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
}

// FuzzFrames: whatever the peer sends, a reader neither panics nor returns
// more than it was told to take.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x'})
	f.Add(AppendFrame(AppendFrame(nil, []byte("ab"), true), []byte("c"), false))
	f.Add([]byte{0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 64
		r := NewFrameReader(bytes.NewReader(in))
		for {
			msg, err := r.ReadMessage(limit)
			if err != nil {
				return
			}
			if len(msg) > limit {
				t.Fatalf("a message of %d bytes", len(msg))
			}
		}
	})
}

// FuzzPreamble: a preamble that is taken has a known kind and a JSON header.
func FuzzPreamble(f *testing.F) {
	good, err := encodePreamble(KindDial, 3, DialHeader{Port: 80})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{9, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		st, err := decodePreamble(bytes.NewReader(in))
		if err != nil {
			return
		}
		if st.Kind < KindControl || st.Kind > KindDial || !json.Valid(st.Header) || len(st.Header) > maxHeader {
			t.Fatalf("took %+v", st)
		}
	})
}

// writes records what is written.
type writes struct{ bytes.Buffer }

func (w *writes) Close() error { return nil }

func TestCoalescerKeepsTheBytesInOrder(t *testing.T) {
	data := []byte{0, muxTypeData, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3}
	window := []byte{0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9}
	empty := []byte{0, muxTypeData, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}
	var out writes
	c := &coalescer{ReadWriteCloser: &out}
	large := make([]byte, maxJoined+1)
	var want []byte
	for _, part := range [][]byte{window, data, []byte("abc"), empty, data, large, data, []byte("def")} {
		want = append(want, part...)
		if n, err := c.Write(part); n != len(part) || err != nil {
			t.Fatalf("write of %d bytes: %d, %v", len(part), n, err)
		}
	}
	if !bytes.Equal(want, out.Bytes()) {
		t.Errorf("wrote %x; want %x", out.Bytes(), want)
	}
}
