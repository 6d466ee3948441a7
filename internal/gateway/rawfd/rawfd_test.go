package rawfd

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w uintptr) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return uintptr(fds[0]), uintptr(fds[1])
}

func TestPieces(t *testing.T) {
	r, w := pipe(t)
	var want []byte
	var pieces [][]byte
	for i := range 1500 { // more than one call takes
		pieces = append(pieces, bytes.Repeat([]byte{byte(i)}, i%3))
		want = append(want, pieces[i]...)
	}
	if n, err := Write(w, pieces...); n != len(want) || err != nil {
		t.Fatalf("wrote %d of %d bytes, %v", n, len(want), err)
	}
	head, body := make([]byte, 100), make([]byte, 4<<10)
	n, err := Read(r, head, body)
	if n != len(want) || err != nil || !bytes.Equal(head, want[:100]) || !bytes.Equal(body[:n-100], want[100:]) {
		t.Errorf("read %d of %d bytes, %v", n, len(want), err)
	}
}

func TestNeverBlocks(t *testing.T) {
	r, w := pipe(t)
	if n, err := Read(r, make([]byte, 1), nil); n != 0 || err != unix.EAGAIN {
		t.Errorf("read from an empty pipe: %d, %v", n, err)
	}
	full := make([]byte, 1<<20)
	if n, err := Write(w, full); n <= 0 || n >= len(full) || err != nil {
		t.Errorf("more than the pipe holds: %d, %v", n, err)
	}
	if n, err := Write(w, full); n != 0 || err != unix.EAGAIN {
		t.Errorf("write to a full pipe: %d, %v", n, err)
	}
	if n, err := Write(w); n != 0 || err != nil {
		t.Errorf("nothing to write: %d, %v", n, err)
	}
}
