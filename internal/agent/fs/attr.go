package fs

import (
	"context"
	"math"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func (s *Service) chmod(ctx context.Context, p api.ChmodParams) error {
	err := s.pool.do(ctx, func() error { return unix.Chmod(s.resolve(p.Path), p.Mode&0o7777) })
	return failed(err, "chmod", p.Path)
}

func (s *Service) chown(ctx context.Context, p api.ChownParams) error {
	uid, err := ownerID("uid", p.UID)
	if err != nil {
		return err
	}
	gid, err := ownerID("gid", p.GID)
	if err != nil {
		return err
	}
	err = s.pool.do(ctx, func() error { return unix.Chown(s.resolve(p.Path), uid, gid) })
	return failed(err, "chown", p.Path)
}

// ownerID maps an absent id to the system's "leave it".
func ownerID(name string, id *int64) (int, error) {
	if id == nil {
		return -1, nil
	}
	if *id < 0 || *id >= math.MaxUint32 {
		return 0, outOfRange("%s must be between 0 and %d", name, uint32(math.MaxUint32-1))
	}
	return int(*id), nil
}

func (s *Service) utime(ctx context.Context, p api.UtimeParams) error {
	times, err := timespecs(p.Atime, p.Mtime)
	if err != nil {
		return err
	}
	err = s.pool.do(ctx, func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, s.resolve(p.Path), times[:], 0)
	})
	return failed(err, "utime", p.Path)
}

func timespecs(atime, mtime api.Date) (out [2]unix.Timespec, err error) {
	for i, t := range []api.Date{atime, mtime} {
		if out[i], err = unix.TimeToTimespec(t.Time); err != nil {
			return out, outOfRange("%v is not a time that a file can have", t.Time)
		}
	}
	return out, nil
}

// futimens sets the times of an open file. Package unix only offers it by way
// of /proc/self/fd, which the workers may not read.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (s *Service) truncate(ctx context.Context, p api.TruncateParams) error {
	err := s.pool.do(ctx, func() error {
		return restart(func() error { return unix.Truncate(s.resolve(p.Name), length(p.Length)) })
	})
	return failed(err, "truncate", p.Name)
}

// length reads an optional length as Deno does: absent and negative are 0.
func length(n *int64) int64 {
	if n == nil || *n < 0 {
		return 0
	}
	return *n
}

// umask is the process's file mode creation mask. It is the sandbox's: the
// files that this package makes and the processes that the agent starts take
// it from the process. The system only tells it to who sets it, which for a
// moment would give another mask to files that are being made: so it is asked
// for once, before the first of them, and remembered.
var umask struct {
	sync.Mutex
	known bool
	mask  uint32
}

func learnUmask() {
	umask.Lock()
	defer umask.Unlock()
	if !umask.known {
		umask.mask = uint32(unix.Umask(0o022))
		unix.Umask(int(umask.mask))
		umask.known = true
	}
}

// setUmask implements the umask method: it returns the mask that was in force
// and, if one is given, sets another.
func (s *Service) setUmask(p api.UmaskParams) (uint32, error) {
	if p.Mask != nil && *p.Mask > 0o777 {
		return 0, outOfRange("mask %#o is over 0777", *p.Mask)
	}
	umask.Lock()
	defer umask.Unlock()
	before := umask.mask
	if p.Mask != nil {
		unix.Umask(int(*p.Mask))
		umask.mask = *p.Mask
	}
	return before, nil
}
