package fs

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// Waits for the other end of a pipe look again after pollMin, then ever more
// rarely down to pollMax.
const (
	pollMin = time.Millisecond
	pollMax = 100 * time.Millisecond
)

// file is an open file of any kind. Its methods may be called concurrently.
type file struct {
	*os.File
	pool    *pool
	regular bool
	fifo    bool
	polled  bool // the runtime can wait for it: reads and writes need no worker
}

// open opens a path as the service's user. Pipes are waited for as open(2)
// would, but without holding a worker; ctx ends that.
func (s *Service) open(ctx context.Context, path string, flags int, mode uint32) (f *file, err error) {
	for wait := pollMin; ; wait = min(2*wait, pollMax) {
		err = s.pool.do(ctx, func() (err error) {
			f, err = s.openNow(path, flags, mode)
			return err
		})
		// A pipe that is opened for writing has nobody who reads it yet.
		if !is(err, unix.ENXIO) || !s.isFifo(ctx, path) {
			return f, err
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (s *Service) isFifo(ctx context.Context, path string) bool {
	info, err := s.stat(ctx, api.PathParams{Path: path})
	return err == nil && info.IsFifo
}

// openNow runs on a worker and never blocks on a pipe or a device.
func (s *Service) openNow(path string, flags int, mode uint32) (*file, error) {
	var fd int
	err := restart(func() (err error) {
		fd, err = unix.Open(s.resolve(path), flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, mode&0o7777)
		return err
	})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := &file{File: os.NewFile(uintptr(fd), path), pool: s.pool}
	f.regular = st.Mode&unix.S_IFMT == unix.S_IFREG
	f.fifo = st.Mode&unix.S_IFMT == unix.S_IFIFO
	f.polled = !f.regular && f.SetDeadline(time.Time{}) == nil
	return f, nil
}

// read reads once; at the end of the file it returns io.EOF.
func (f *file) read(ctx context.Context, buf []byte) (n int, err error) {
	if !f.polled {
		err = f.pool.do(ctx, func() (err error) {
			n, err = f.Read(buf)
			return err
		})
		return n, err
	}
	if err := f.awaitWriter(ctx); err != nil {
		return 0, err
	}
	err = f.whilePolled(ctx, f.SetReadDeadline, func() (err error) {
		n, err = f.Read(buf)
		return err
	})
	return n, err
}

// write writes all of data unless it fails.
func (f *file) write(ctx context.Context, data []byte) (n int, err error) {
	run := func() (err error) {
		n, err = f.Write(data)
		return err
	}
	if f.polled {
		return n, f.whilePolled(ctx, f.SetWriteDeadline, run)
	}
	err = f.pool.do(ctx, run)
	return n, err
}

// whilePolled runs a read or a write that ctx interrupts. An interrupted file
// stays so: its owner closes it.
func (f *file) whilePolled(ctx context.Context, setDeadline func(time.Time) error, run func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = setDeadline(time.Unix(1, 0)) })
	defer stop()
	err := run()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// awaitWriter waits until a pipe has had a writer: before that, a read of a
// descriptor that does not block reports the end of the file.
func (f *file) awaitWriter(ctx context.Context) error {
	if !f.fifo {
		return nil
	}
	for wait := pollMin; ; wait = min(2*wait, pollMax) {
		ready, err := f.readable()
		if ready || err != nil {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// readable reports whether a read would return at once.
func (f *file) readable() (ready bool, err error) {
	ctlErr := f.control(func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		return restart(func() error {
			n, err := unix.Poll(p, 0)
			ready = n > 0
			return err
		})
	})
	return ready, ctlErr
}

// control runs a system call on the descriptor, which cannot be closed
// meanwhile.
func (f *file) control(run func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	if raw.Control(func(fd uintptr) { callErr = run(int(fd)) }) != nil {
		return os.ErrClosed // by another call; its own error is none that others know
	}
	return callErr
}

// onWorker is control on a worker, for calls that the kernel checks against
// the user or that take long.
func (f *file) onWorker(ctx context.Context, run func(fd int) error) error {
	return f.pool.do(ctx, func() error { return f.control(run) })
}

// fileWriter is a file as an io.Writer.
type fileWriter struct {
	ctx context.Context
	f   *file
}

func (w fileWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return w.f.write(w.ctx, p)
}

// fileReader is a file as an io.Reader.
type fileReader struct {
	ctx context.Context
	f   *file
}

func (r fileReader) Read(p []byte) (int, error) { return r.f.read(r.ctx, p) }

// sleep waits for a duration or ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
