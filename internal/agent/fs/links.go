package fs

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func (s *Service) rename(ctx context.Context, p api.RenameParams) error {
	err := s.pool.do(ctx, func() error { return unix.Rename(s.resolve(p.OldPath), s.resolve(p.NewPath)) })
	return failedBetween(err, "rename", p.OldPath, p.NewPath)
}

func (s *Service) link(ctx context.Context, p api.LinkParams) error {
	err := s.pool.do(ctx, func() error { return unix.Link(s.resolve(p.Target), s.resolve(p.Path)) })
	return failedBetween(err, "link", p.Target, p.Path)
}

// symlink stores the target as it is given: relative to the link.
func (s *Service) symlink(ctx context.Context, p api.LinkParams) error {
	err := s.pool.do(ctx, func() error { return unix.Symlink(p.Target, s.resolve(p.Path)) })
	return failedBetween(err, "symlink", p.Target, p.Path)
}

func (s *Service) readLink(ctx context.Context, p api.PathParams) (target string, err error) {
	err = s.pool.do(ctx, func() (err error) {
		target, err = os.Readlink(s.resolve(p.Path))
		return err
	})
	return target, failed(err, "readlink", p.Path)
}

func (s *Service) realPath(ctx context.Context, p api.PathParams) (real string, err error) {
	err = s.pool.do(ctx, func() (err error) {
		real, err = realPath(s.resolve(p.Path))
		return err
	})
	return real, failed(err, "realpath", p.Path)
}

// realPath resolves all links of an absolute path. It does not ask
// /proc/self/fd, which the workers may not read.
func realPath(path string) (string, error) {
	if path == "" {
		return "", unix.ENOENT
	}
	if strings.ContainsRune(path, 0) {
		return "", unix.EINVAL
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil && strings.HasSuffix(err.Error(), "too many links") {
		return "", unix.ELOOP
	}
	return real, err
}
