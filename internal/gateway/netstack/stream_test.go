package netstack

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func streamPair(t *testing.T) (*stream, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStream(os.NewFile(uintptr(fds[0]), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	return s, os.NewFile(uintptr(fds[1]), "theirs")
}

func TestStreamKeepsFrames(t *testing.T) {
	s, peer := streamPair(t)
	defer peer.Close()
	for i := range 100 {
		if err := s.WriteFrame([][]byte{{byte(i)}, bytes.Repeat([]byte{7}, i)}); err != nil {
			t.Fatal(err)
		}
	}
	in, buf := bufio.NewReader(peer), make([]byte, 200)
	for i := range 100 {
		n, err := readFrame(in, buf, nil)
		if err != nil || n != i+1 || buf[0] != byte(i) {
			t.Fatalf("frame %d: %d bytes, %v", i, n, err)
		}
	}
	_ = s.Close()
}

// A peer that never reads costs a bounded queue, and Close doesn't wait for it.
func TestStreamPeerThatDoesNotRead(t *testing.T) {
	s, peer := streamPair(t)
	defer peer.Close()
	frame := make([]byte, 60_000)
	for range 3 * streamQueue / len(frame) {
		if err := s.WriteFrame([][]byte{frame}); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	if len(s.queue) > streamQueue {
		t.Errorf("%d bytes queued", len(s.queue))
	}
	s.mu.Unlock()
	_ = s.Close()
	if err := s.WriteFrame([][]byte{frame}); err == nil {
		t.Error("wrote to a closed stream")
	}
}

func TestStreamPeerGone(t *testing.T) {
	s, peer := streamPair(t)
	_ = peer.Close()
	if _, err := s.ReadFrame(make([]byte, headSize), nil); err == nil {
		t.Error("read from nobody")
	}
	_ = s.Close()
}

// FuzzStream: of whatever arrives, frames fit where they are put, are what
// stands behind their lengths, and an impossible length is the end.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 40, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0x80, 0, 0, 1, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		head, body := make([]byte, 8), make([]byte, 24)
		for at := 0; ; {
			n, err := readFrame(r, head, body)
			if err != nil {
				return
			}
			if n < 1 || n > len(head)+len(body) {
				t.Fatalf("a frame of %d bytes", n)
			}
			want := in[at+streamHead:][:n]
			if got := append(bytes.Clone(head), body...)[:n]; !bytes.Equal(got, want) {
				t.Fatalf("frame %x; want %x", got, want)
			}
			at += streamHead + n
		}
	})
}

// What floods the card with frames that are none ends the wire and no more.
func TestStreamEndsAtAnImpossibleLength(t *testing.T) {
	for name, in := range map[string][]byte{
		"none": {0, 0, 0, 0}, "one too many": {0, 0, 0, 33}, "negative": {0x80, 0, 0, 1}, "the largest": {0xff, 0xff, 0xff, 0xff},
	} {
		s, peer := streamPair(t)
		if _, err := peer.Write(append([]byte{0, 0, 0, 32}, make([]byte, 32)...)); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(in); err != nil {
			t.Fatal(err)
		}
		head, body := make([]byte, 16), make([]byte, 16)
		if n, err := s.ReadFrame(head, body); n != 32 || err != nil {
			t.Errorf("%s: the frame before: %d bytes, %v", name, n, err)
		}
		if _, err := s.ReadFrame(head, body); !errors.Is(err, errFrameSize) {
			t.Errorf("%s: %v; want %v", name, err, errFrameSize)
		}
		_, _ = s.Close(), peer.Close()
	}
}
