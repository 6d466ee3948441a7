package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/atollhq/atoll/client"
)

// kind is what cp tells apart.
type kind int

const (
	kindFile kind = iota
	kindDir
	kindSymlink
	kindOther
)

// entry is one thing to copy.
type entry struct {
	kind kind
	perm uint32 // permission bits
	size int64
}

// source is a side to copy from.
type source interface {
	stat(ctx context.Context, path string) (entry, error) // follows no link
	list(ctx context.Context, dir string) ([]string, error)
	open(ctx context.Context, path string, size int64) (io.ReadCloser, error)
	readlink(ctx context.Context, path string) (string, error)
	join(dir, name string) string
}

// target is a side to copy to.
type target interface {
	mkdir(ctx context.Context, path string) error // an existing one is fine
	write(ctx context.Context, path string, r io.Reader, perm uint32) error
	symlink(ctx context.Context, to, path string) error // replaces a link
	chmod(ctx context.Context, path string, perm uint32) error
	joinTo(dir, name string) string
}

const (
	// parallelFiles is how many files of one copy are under way at once.
	parallelFiles = 8
	// copyBuffer is what one of them holds in memory, in bytes.
	copyBuffer = 1 << 20
	// smallFile is what is read in one message, in bytes.
	smallFile = 256 << 10
	// maxDepth bounds nesting, which a hostile sandbox could make endless.
	maxDepth = 256
)

// copyJob copies one tree.
type copyJob struct {
	from     source
	to       target
	progress *progress

	files *errgroup.Group
	modes []dirMode // set last, so that read-only directories can be filled
}

type dirMode struct {
	path string
	perm uint32
}

// copy copies what is at src to dst.
func (j *copyJob) copy(ctx context.Context, src, dst string) error {
	var files context.Context
	j.files, files = errgroup.WithContext(ctx)
	j.files.SetLimit(parallelFiles)
	err := j.one(files, src, dst, 0)
	if err := errors.Join(j.files.Wait(), err); err != nil {
		return firstOf(err)
	}
	for i := len(j.modes) - 1; i >= 0; i-- {
		if err := j.to.chmod(ctx, j.modes[i].path, j.modes[i].perm); err != nil {
			return fmt.Errorf("set the mode of %s: %w", j.modes[i].path, err)
		}
	}
	return nil
}

// firstOf prefers the cause to the cancellations that it led to.
func firstOf(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	for _, e := range joined.Unwrap() {
		if !errors.Is(e, context.Canceled) {
			return e
		}
	}
	return joined.Unwrap()[0]
}

func (j *copyJob) one(ctx context.Context, src, dst string, depth int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if depth > maxDepth {
		return fmt.Errorf("%s is nested more than %d directories deep", src, maxDepth)
	}
	e, err := j.from.stat(ctx, strings.TrimSuffix(src, "/"))
	if err != nil {
		return err
	}
	switch e.kind {
	case kindDir:
		return j.dir(ctx, src, dst, e, depth)
	case kindSymlink:
		return j.link(ctx, src, dst)
	case kindFile:
		j.files.Go(func() error { return j.file(ctx, src, dst, e) })
	default:
		j.progress.skip(src)
	}
	return nil
}

func (j *copyJob) dir(ctx context.Context, src, dst string, e entry, depth int) error {
	if err := j.to.mkdir(ctx, dst); err != nil {
		return fmt.Errorf("make directory %s: %w", dst, err)
	}
	j.progress.directory()
	// The top of a merge into an existing directory keeps its mode.
	if depth > 0 || baseName(dst) != "." {
		j.modes = append(j.modes, dirMode{dst, e.perm})
	}
	names, err := j.from.list(ctx, src)
	if err != nil {
		return fmt.Errorf("list %s: %w", src, err)
	}
	for _, name := range names {
		if !plainName(name) {
			return fmt.Errorf("list %s: %q is not a file name", src, name)
		}
		if err := j.one(ctx, j.from.join(src, name), j.to.joinTo(dst, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// plainName refuses names with which a hostile sandbox could leave the
// destination. os.Root would stop them as well.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func (j *copyJob) link(ctx context.Context, src, dst string) error {
	to, err := j.from.readlink(ctx, src)
	if err != nil {
		return fmt.Errorf("read link %s: %w", src, err)
	}
	if err := j.to.symlink(ctx, to, dst); err != nil {
		return fmt.Errorf("make link %s: %w", dst, err)
	}
	j.progress.link()
	return nil
}

func (j *copyJob) file(ctx context.Context, src, dst string, e entry) error {
	r, err := j.from.open(ctx, src, e.size)
	if err != nil {
		return fmt.Errorf("open %s: %w", src, err)
	}
	defer r.Close()
	j.progress.begin(src)
	if err := j.to.write(ctx, dst, j.progress.count(r), e.perm); err != nil {
		return fmt.Errorf("write %s: %w", dst, err)
	}
	j.progress.file()
	return nil
}

// localSource reads this machine's files.
type localSource struct{}

func (localSource) stat(_ context.Context, p string) (entry, error) {
	info, err := os.Lstat(p)
	if err != nil {
		return entry{}, err
	}
	return entry{kindOf(info.Mode()), uint32(info.Mode().Perm()), info.Size()}, nil
}

func kindOf(m fs.FileMode) kind {
	switch {
	case m.IsRegular():
		return kindFile
	case m.IsDir():
		return kindDir
	case m&fs.ModeSymlink != 0:
		return kindSymlink
	}
	return kindOther
}

func (localSource) list(_ context.Context, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (localSource) open(_ context.Context, p string, _ int64) (io.ReadCloser, error) {
	return os.Open(p)
}
func (localSource) readlink(_ context.Context, p string) (string, error) { return os.Readlink(p) }
func (localSource) join(dir, name string) string                         { return filepath.Join(dir, name) }

// rootTree writes below one directory of this machine and never outside it,
// symbolic links that the copy itself made included.
type rootTree struct{ root *os.Root }

func (t rootTree) mkdir(_ context.Context, p string) error {
	if p == "." {
		return nil
	}
	err := t.root.Mkdir(p, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := t.root.Stat(p); statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

func (t rootTree) write(_ context.Context, p string, r io.Reader, perm uint32) error {
	f, err := t.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, copyBuffer))
	return errors.Join(err, f.Chmod(fs.FileMode(perm&0o777)), f.Close())
}

func (t rootTree) symlink(_ context.Context, to, p string) error {
	if info, err := t.root.Lstat(p); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if err := t.root.Remove(p); err != nil {
			return err
		}
	}
	return t.root.Symlink(to, p)
}

func (t rootTree) chmod(_ context.Context, p string, perm uint32) error {
	return t.root.Chmod(p, fs.FileMode(perm&0o777))
}

func (rootTree) joinTo(dir, name string) string { return filepath.Join(dir, name) }

// remoteTree is a sandbox's files, as source and target.
type remoteTree struct{ fs *client.FS }

func (t *remoteTree) stat(ctx context.Context, p string) (entry, error) {
	info, err := t.fs.Lstat(ctx, p)
	if err != nil {
		return entry{}, err
	}
	e := entry{kindOther, info.Mode & 0o777, info.Size}
	switch {
	case info.IsFile:
		e.kind = kindFile
	case info.IsDirectory:
		e.kind = kindDir
	case info.IsSymlink:
		e.kind = kindSymlink
	}
	return e, nil
}

func (t *remoteTree) list(ctx context.Context, dir string) ([]string, error) {
	entries, err := t.fs.ReadDir(ctx, dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

// open reads a small file in one round trip, a large one in pieces.
func (t *remoteTree) open(ctx context.Context, p string, size int64) (io.ReadCloser, error) {
	if size <= smallFile {
		data, err := t.fs.ReadFile(ctx, p)
		return io.NopCloser(bytes.NewReader(data)), err
	}
	f, err := t.fs.Open(ctx, p, client.OpenOptions{})
	if err != nil {
		return nil, err
	}
	// Each Read of f is a round trip, so they should be large.
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(struct{ io.Reader }{f}, copyBuffer), f}, nil
}

func (t *remoteTree) readlink(ctx context.Context, p string) (string, error) {
	return t.fs.Readlink(ctx, p)
}

func (t *remoteTree) join(dir, name string) string   { return path.Join(dir, name) }
func (t *remoteTree) joinTo(dir, name string) string { return path.Join(dir, name) }

func (t *remoteTree) mkdir(ctx context.Context, p string) error {
	err := t.fs.MkdirAll(ctx, p)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := t.fs.Stat(ctx, p); statErr == nil && info.IsDirectory {
			return nil
		}
	}
	return err
}

// write sets the mode twice: at creation, so that the content is never more
// open than it should be, and afterwards, because of the umask and of files
// that existed.
func (t *remoteTree) write(ctx context.Context, p string, r io.Reader, perm uint32) error {
	if err := t.fs.WriteFrom(ctx, p, r, &client.WriteOptions{Mode: &perm}); err != nil {
		return err
	}
	return t.fs.Chmod(ctx, p, perm)
}

func (t *remoteTree) symlink(ctx context.Context, to, p string) error {
	if info, err := t.fs.Lstat(ctx, p); err == nil && info.IsSymlink {
		if err := t.fs.Remove(ctx, p); err != nil {
			return err
		}
	}
	return t.fs.Symlink(ctx, to, p)
}

func (t *remoteTree) chmod(ctx context.Context, p string, perm uint32) error {
	return t.fs.Chmod(ctx, p, perm)
}
