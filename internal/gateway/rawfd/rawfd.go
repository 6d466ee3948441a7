// Package rawfd reads from and writes to descriptors that never block, without
// telling Go's scheduler.
//
// The scheduler takes any system call for one that may block: when one lasts
// longer than some 20 µs it hands its place to another thread, and moving
// 64 KiB lasts that long. On the path of every packet that costs two changes
// of threads where there was nothing to wait for. The price of not telling is
// that a call holds up the garbage collector while it lasts, so use this for
// descriptors in non-blocking mode and bounded sizes only, and wait in the
// runtime's poller; see syscall.RawConn.
package rawfd

import (
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/rawfile"
)

// Read reads once, into head and then into body, which may be empty.
func Read(fd uintptr, head, body []byte) (int, error) {
	var room [2]unix.Iovec
	iov := rawfile.AppendIovecFromBytes(room[:0], head, len(room))
	return call(unix.SYS_READV, fd, rawfile.AppendIovecFromBytes(iov, body, len(room)))
}

// Write writes the pieces at once, and may write less than all of them.
func Write(fd uintptr, pieces ...[]byte) (int, error) {
	var room [8]unix.Iovec
	iov := room[:0]
	for _, p := range pieces {
		iov = rawfile.AppendIovecFromBytes(iov, p, rawfile.MaxIovs)
	}
	return call(unix.SYS_WRITEV, fd, iov)
}

// call is repeated when a signal interrupts it.
func call(trap, fd uintptr, iov []unix.Iovec) (int, error) {
	if len(iov) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
