package fs

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func (s *Service) stat(ctx context.Context, p api.PathParams) (api.FileInfo, error) {
	return s.statPath(ctx, "stat", p.Path, 0)
}

func (s *Service) lstat(ctx context.Context, p api.PathParams) (api.FileInfo, error) {
	return s.statPath(ctx, "lstat", p.Path, unix.AT_SYMLINK_NOFOLLOW)
}

func (s *Service) statPath(ctx context.Context, op, path string, flags int) (info api.FileInfo, err error) {
	err = s.pool.do(ctx, func() (err error) {
		info, err = statAt(unix.AT_FDCWD, s.resolve(path), flags)
		return err
	})
	return info, failed(err, op, path)
}

// statAt fills a FileInfo as statx(2) tells it, with the birth time where the
// file system keeps one.
func statAt(dir int, path string, flags int) (api.FileInfo, error) {
	var x unix.Statx_t
	err := restart(func() error {
		return unix.Statx(dir, path, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x)
	})
	if err != nil {
		return api.FileInfo{}, err
	}
	info := api.FileInfo{
		Size: int64(x.Size), Mode: uint32(x.Mode), Ino: x.Ino, Nlink: uint64(x.Nlink), UID: x.Uid, GID: x.Gid,
		Dev: unix.Mkdev(x.Dev_major, x.Dev_minor), Rdev: unix.Mkdev(x.Rdev_major, x.Rdev_minor),
		Blksize: int64(x.Blksize), Blocks: int64(x.Blocks),
		Atime: statxTime(x.Atime), Mtime: statxTime(x.Mtime), Ctime: statxTime(x.Ctime), Birthtime: birthtime(&x),
	}
	setType(&info)
	return info, nil
}

func statxTime(t unix.StatxTimestamp) api.Date {
	return api.Date{Time: time.Unix(t.Sec, int64(t.Nsec)).UTC()}
}

// birthtime falls back to the older of the change and the modification time:
// the file cannot be younger than that.
func birthtime(x *unix.Statx_t) api.Date {
	if x.Mask&unix.STATX_BTIME != 0 {
		return statxTime(x.Btime)
	}
	change, modified := statxTime(x.Ctime), statxTime(x.Mtime)
	if modified.Before(change.Time) {
		return modified
	}
	return change
}

// setType derives the booleans from the mode.
func setType(info *api.FileInfo) {
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		info.IsFile = true
	case unix.S_IFDIR:
		info.IsDirectory = true
	case unix.S_IFLNK:
		info.IsSymlink = true
	case unix.S_IFBLK:
		info.IsBlockDevice = true
	case unix.S_IFCHR:
		info.IsCharDevice = true
	case unix.S_IFIFO:
		info.IsFifo = true
	case unix.S_IFSOCK:
		info.IsSocket = true
	}
}

// restart runs a system call again as long as a signal interrupts it.
func restart(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
