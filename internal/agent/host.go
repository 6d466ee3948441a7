package agent

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Host is what personalising changes outside of files.
type Host interface {
	SetHostname(name string) error
	Now() time.Time
	SetTime(t time.Time) error
	Chown(path string, uid, gid int) error
	// Unmount takes a mounted file system away; a path that is no mount point
	// is none already.
	Unmount(path string) error
}

// kernel is the real Host.
type kernel struct{}

func (kernel) SetHostname(name string) error { return unix.Sethostname([]byte(name)) }

func (kernel) Now() time.Time { return time.Now() }

func (kernel) SetTime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func (kernel) Chown(path string, uid, gid int) error { return unix.Lchown(path, uid, gid) }

func (kernel) Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
