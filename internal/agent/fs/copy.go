package fs

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// copyStep is how much is copied in one job.
const copyStep = 16 << 20

// copyFile copies the content and the mode of a file over another.
func (s *Service) copyFile(ctx context.Context, p api.CopyFileParams) error {
	from, to, err := s.openCopy(ctx, p)
	if err != nil {
		return failedBetween(err, "copy", p.FromPath, p.ToPath)
	}
	defer from.Close()
	if to == nil {
		return nil
	}
	err = s.copySteps(ctx, from, to)
	return failedBetween(errors.Join(err, to.Close()), "copy", p.FromPath, p.ToPath)
}

// openCopy opens both files and empties the second. It is nil where both are
// the same: that would destroy what is to be copied.
func (s *Service) openCopy(ctx context.Context, p api.CopyFileParams) (from, to *file, err error) {
	err = s.pool.do(ctx, func() error {
		if from, err = s.openNow(p.FromPath, unix.O_RDONLY, 0); err != nil {
			return err
		}
		to, err = s.openCopyTarget(from, p.ToPath)
		return err
	})
	if err != nil && from != nil {
		_ = from.Close()
	}
	return from, to, err
}

func (s *Service) openCopyTarget(from *file, path string) (*file, error) {
	if !from.regular {
		return nil, newError("TypeError", "EINVAL", "the source path is neither a regular file nor a symlink to a regular file")
	}
	source, err := fileStat(from)
	if err != nil {
		return nil, err
	}
	to, err := s.openNow(path, unix.O_WRONLY|unix.O_CREAT, source.Mode)
	if err != nil {
		return nil, err
	}
	target, err := fileStat(to)
	if err == nil && target.Dev == source.Dev && target.Ino == source.Ino {
		return nil, to.Close()
	}
	if err == nil && to.regular {
		err = to.control(func(fd int) error { return errors.Join(unix.Ftruncate(fd, 0), unix.Fchmod(fd, source.Mode&0o7777)) })
	}
	if err != nil {
		_ = to.Close()
		return nil, err
	}
	return to, nil
}

// fileStat asks the system about an open file.
func fileStat(f *file) (info api.FileInfo, err error) {
	err = f.control(func(fd int) (err error) {
		info, err = statAt(fd, "", unix.AT_EMPTY_PATH)
		return err
	})
	return info, err
}

// copySteps copies until the end, inside the kernel where that is possible. A
// pipe is waited for outside of the pool.
func (s *Service) copySteps(ctx context.Context, from, to *file) error {
	if to.polled {
		return pump(ctx, to, nil, fileReader{ctx: ctx, f: from})
	}
	for {
		err := s.pool.do(ctx, func() error {
			_, err := io.CopyN(to.File, from.File, copyStep)
			return err
		})
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
