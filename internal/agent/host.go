package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

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
	// Bind shows a file at the place of another.
	Bind(source, target string) error
	// AddEntropy mixes random bytes, which count in full, into the kernel's
	// pool, and has it draw from there anew at once.
	AddEntropy(random []byte) error
	// CutNetwork ends the TCP connections that lead out of the machine.
	CutNetwork() error
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

func (kernel) Bind(source, target string) error {
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}

func (kernel) CutNetwork() error { return cutConnections() }

// AddEntropy does what random(4) says of RNDADDENTROPY and RNDRESEEDCRNG.
func (kernel) AddEntropy(random []byte) error {
	fd, err := unix.Open("/dev/random", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/random: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	pool := make([]byte, 8, 8+len(random)) // struct rand_pool_info: bits, bytes, the bytes
	binary.NativeEndian.PutUint32(pool, uint32(len(random)*8))
	binary.NativeEndian.PutUint32(pool[4:], uint32(len(random)))
	pool = append(pool, random...)
	defer clear(pool)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}
