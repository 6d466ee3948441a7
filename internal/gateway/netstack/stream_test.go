package netstack

import (
	"bufio"
	"bytes"
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
