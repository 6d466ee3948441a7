package intercept

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replacing is a Rewriter that replaces a word, holding back what may be its
// beginning.
type replacing struct {
	old, new string
	held     string
}

func (r *replacing) Rewrite(dst, piece []byte, last bool) ([]byte, error) {
	text := strings.ReplaceAll(r.held+string(piece), r.old, r.new)
	r.held = ""
	if !last {
		for n := min(len(r.old)-1, len(text)); n > 0; n-- {
			if strings.HasPrefix(r.old, text[len(text)-n:]) {
				text, r.held = text[:len(text)-n], text[len(text)-n:]
				break
			}
		}
	}
	return append(dst, text...), nil
}

// frame makes one frame of at most 125 bytes.
func frame(final bool, opcode byte, masked bool, payload string) []byte {
	out := []byte{opcode, byte(len(payload))}
	if final {
		out[0] |= finBit
	}
	if !masked {
		return append(out, payload...)
	}
	out[1] |= maskBit
	mask := [4]byte{1, 2, 3, 4}
	out = append(out, mask[:]...)
	for i := range payload {
		out = append(out, payload[i]^mask[i&3])
	}
	return out
}

// message is what a receiver makes of frames.
type message struct {
	Opcode  byte
	Payload string
}

// receive reads whole frames as their receiver does.
func receive(t testing.TB, b []byte, masked bool) (out []message) {
	t.Helper()
	var open *message
	for len(b) > 0 {
		n := headerSize(b)
		head, opcode, final := b[:n], b[0]&0x0f, b[0]&finBit != 0
		size := uint64(head[1] &^ maskBit)
		switch size {
		case 126:
			size = uint64(binary.BigEndian.Uint16(head[2:]))
		case 127:
			size = binary.BigEndian.Uint64(head[2:])
		}
		if got := head[1]&maskBit != 0; got != masked {
			t.Fatalf("masked %v", got)
		}
		payload := bytes.Clone(b[n : uint64(n)+size])
		if masked {
			for i := range payload {
				payload[i] ^= head[n-4+i&3]
			}
		}
		b = b[uint64(n)+size:]
		switch {
		case opcode >= opClose:
			out = append(out, message{opcode, string(payload)})
			continue
		case open == nil:
			open = &message{Opcode: opcode}
		case opcode != opContinuation:
			t.Fatalf("opcode %d within a message", opcode)
		}
		open.Payload += string(payload)
		if final {
			out, open = append(out, *open), nil
		}
	}
	if open != nil {
		t.Fatal("a message without an end")
	}
	return out
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func TestFramesAreRewrittenInAnyPieces(t *testing.T) {
	for _, masked := range []bool{true, false} {
		in := join(
			frame(true, opText, masked, "a SECRET and a SECRET"),
			frame(false, opText, masked, "split SEC"),
			frame(true, 9, masked, "ping"),
			frame(false, opContinuation, masked, ""),
			frame(true, opContinuation, masked, "RET end SEC"),
			frame(true, opBinary, masked, "SECRET"),
			frame(true, opText, masked, ""),
			frame(true, opClose, masked, "\x03\xe8bye"),
		)
		want := []message{
			{opText, "a value and a value"}, {9, "ping"}, {opText, "split value end SEC"},
			{opBinary, "SECRET"}, {opText, ""}, {opClose, "\x03\xe8bye"},
		}
		for size := 1; size <= len(in); size++ {
			f := newFrames(masked, &replacing{old: "SECRET", new: "value"}, nil, nil)
			var out []byte
			for rest := in; len(rest) > 0; {
				n := min(size, len(rest))
				var err error
				if out, err = f.next(out, bytes.Clone(rest[:n])); err != nil {
					t.Fatalf("in pieces of %d: %v", size, err)
				}
				rest = rest[n:]
			}
			if diff := cmp.Diff(want, receive(t, out, masked)); diff != "" {
				t.Fatalf("in pieces of %d: %s", size, diff)
			}
		}
	}
}

func TestLargeFramesAreNotHeld(t *testing.T) {
	f := newFrames(false, &replacing{old: "SECRET", new: "value"}, nil, nil)
	head := binary.BigEndian.AppendUint64([]byte{finBit | opText, 127}, 1<<40)
	out, err := f.next(nil, append(head, strings.Repeat("x", 1000)...))
	if err != nil || len(out) < 1000 || len(out) > 1014 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestBadFrames(t *testing.T) {
	for name, in := range map[string][]byte{
		"reserved bit":           {finBit | 0x40 | opText, 0},
		"reserved opcode":        {finBit | 3, 0},
		"reserved control":       {finBit | 11, 0},
		"masked":                 {finBit | opText, maskBit, 0, 0, 0, 0},
		"long control":           {finBit | 9, 126, 0, 126},
		"split control":          {9, 0},
		"nothing to continue":    {finBit | opContinuation, 0},
		"a message in a message": join(frame(false, opText, false, "a"), frame(true, opText, false, "b")),
		"impossible length":      {finBit | opText, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
	} {
		if out, err := newFrames(false, &replacing{old: "x", new: "y"}, nil, nil).next(nil, in); err == nil {
			t.Errorf("%s: passed %x", name, out)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(join(frame(false, opText, true, "SEC"), frame(true, opContinuation, true, "RET")), uint8(3))
	f.Add(join(frame(true, opClose, true, "\x03\xe8"), []byte{finBit | opText, maskBit | 126, 0, 200}), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		run := func(size int) ([]byte, error) {
			fr := newFrames(true, &replacing{old: "SECRET", new: "value"}, nil, nil)
			var out []byte
			for rest := bytes.Clone(in); len(rest) > 0; {
				n := min(size, len(rest))
				var err error
				if out, err = fr.next(out, rest[:n]); err != nil {
					return out, err
				}
				rest = rest[n:]
			}
			return out, nil
		}
		_, whole := run(len(in))
		_, pieces := run(int(size) + 1)
		if (whole == nil) != (pieces == nil) {
			t.Fatalf("whole: %v, in pieces: %v", whole, pieces)
		}
	})
}

func BenchmarkFrames(b *testing.B) {
	payload := strings.Repeat("x", 1<<16)
	in := append(binary.BigEndian.AppendUint64([]byte{finBit | opText, 127}, 1<<16), payload...)
	b.SetBytes(int64(len(in)))
	f := newFrames(false, &replacing{old: "SECRET", new: "value"}, nil, nil)
	var dst []byte
	for b.Loop() {
		dst, _ = f.next(dst[:0], in)
	}
}
