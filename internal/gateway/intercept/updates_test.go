package intercept

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// recorded is a connection whose writes are kept.
type recorded struct {
	net.Conn
	bytes.Buffer
}

func (r *recorded) Write(b []byte) (int, error) { return r.Buffer.Write(b) }
func (r *recorded) Read(b []byte) (int, error)  { return r.Buffer.Read(b) }

// http2Frame is one of HTTP/2.
func http2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// sumUpdates takes the updates out of frames and adds them up by stream.
func sumUpdates(t *testing.T, b []byte) (rest []byte, sums map[uint32]uint32, count int) {
	t.Helper()
	sums = map[uint32]uint32{}
	for len(b) > 0 {
		if len(b) < frameHead || len(b) < frameHead+payloadSize(b) {
			t.Fatalf("%d bytes are no frame", len(b))
		}
		size := frameHead + payloadSize(b)
		if b[3] == frameUpdate {
			sums[binary.BigEndian.Uint32(b[5:])] += binary.BigEndian.Uint32(b[frameHead:])
			count++
		} else {
			rest = append(rest, b[:size]...)
		}
		b = b[size:]
	}
	return rest, sums, count
}

// What is written in whatever pieces arrives, but for updates that are held,
// and those are never much.
func TestUpdatesHold(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var in []byte
		for range 200 {
			stream := 1 + 2*rnd.Uint32N(1+uint32(seed))
			switch rnd.IntN(4) {
			case 0:
				in = append(in, http2Frame(frameData, 0, stream, make([]byte, rnd.IntN(20000)))...)
			case 1:
				in = append(in, http2Frame(frameHeaders, 4, stream, []byte{8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8})...)
			case 2:
				in = append(in, http2Frame(frameUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, 1+rnd.Uint32N(64<<10)))...)
			case 3:
				in = append(in, http2Frame(frameUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, 1+rnd.Uint32N(64<<10)))...)
			}
		}
		to := &recorded{}
		u := newUpdates(to)
		for rest := in; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN([]int{5, 20, 4096, 40000}[rnd.IntN(4)]))
			if m, err := u.Write(rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		want, due, all := sumUpdates(t, in)
		got, told, some := sumUpdates(t, to.Bytes())
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: other frames came than were written", seed)
		}
		for stream, n := range due {
			held := n - told[stream]
			if held != u.held[stream] || stream != 0 && held >= heldOfStream || held >= heldOfConnection {
				t.Errorf("seed %d, stream %d: %d of %d bytes came, %d are held", seed, stream, told[stream], n, u.held[stream])
			}
		}
		if seed == 0 && some > all/4 {
			t.Errorf("%d of %d updates came", some, all)
		}
	}
}

// Streams that end leave nothing behind, whoever ends them.
func TestUpdatesForget(t *testing.T) {
	to := &recorded{}
	u := newUpdates(to)
	update := binary.BigEndian.AppendUint32(nil, 5000)
	for i, end := range [][]byte{
		http2Frame(frameData, flagEndStream, 1, []byte("the end")),
		http2Frame(frameHeaders, flagEndStream|4, 1, []byte{8}),
		http2Frame(frameReset, 0, 1, make([]byte, 4)),
	} {
		_, _ = u.Write(append(http2Frame(frameUpdate, 0, 1, update), end...))
		if len(u.held) != 0 {
			t.Errorf("%d: %d streams hold something", i, len(u.held))
		}
	}
	_, _ = u.Write(http2Frame(frameUpdate, 0, 1, update))
	_, _ = u.Write(http2Frame(frameData, flagEndStream, 1, make([]byte, 20000))) // not copied
	if len(u.held) != 0 {
		t.Error("the end of a large piece was not seen")
	}
	for stream := uint32(1); stream < 1000; stream += 2 { // the guest ends them
		_, _ = u.Write(http2Frame(frameUpdate, 0, stream, update))
		if len(u.held) > maxHeld {
			t.Fatalf("%d streams hold something", len(u.held))
		}
	}
}

// Nothing but HTTP/2 is read.
func TestUpdatesBeginWithThePreface(t *testing.T) {
	for text, want := range map[string]string{
		preface + "frames":                 preface + "frames",
		"GET / HTTP/1.1\r\n\r\n":           "",
		"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n": "PRI * HTTP/2.0\r\n\r\n",
	} {
		from := &recorded{}
		from.WriteString(text)
		u := newUpdates(from)
		var got []byte
		for {
			b := make([]byte, 6)
			n, err := u.Read(b)
			if got = append(got, b[:n]...); err == io.EOF {
				break
			}
		}
		if string(got) != want {
			t.Errorf("%q: read %q", text, got)
		}
	}
}
