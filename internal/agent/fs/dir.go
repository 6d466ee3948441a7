package fs

import (
	"context"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// readDirBatch is how many entries of a directory are read in one job.
const readDirBatch = 256

// readDir lists a directory in the system's order. A directory whose list
// would not fit into max bytes of message is refused.
func (s *Service) readDir(ctx context.Context, path string, max int64) ([]api.DirEntry, error) {
	d := dirReader{s: s, path: s.resolve(path)}
	defer d.close()
	entries := []api.DirEntry{}
	var size int64
	for {
		batch, err := d.next(ctx)
		if err != nil {
			return nil, failed(err, "readdir", path)
		}
		if len(batch) == 0 {
			return entries, nil
		}
		for _, e := range batch {
			entry := api.DirEntry{Name: e.Name(), IsFile: e.Type().IsRegular(), IsDirectory: e.IsDir(), IsSymlink: isLink(e)}
			if size += entrySize(entry.Name); size > max {
				return nil, dirTooLarge(path)
			}
			entries = append(entries, entry)
		}
	}
}

// entrySize is an upper bound of what an entry takes in JSON.
func entrySize(name string) int64 {
	return int64(jsonLength(name)) + int64(len(`{"name":,"isFile":false,"isDirectory":false,"isSymlink":false},`))
}

func isLink(e iofs.DirEntry) bool { return e.Type()&iofs.ModeSymlink != 0 }

// dirReader reads one directory in batches. It is used by one goroutine.
type dirReader struct {
	s    *Service
	path string // resolved
	f    *os.File
	end  bool
}

// open opens the directory if it is not open yet.
func (d *dirReader) open() error {
	if d.f != nil || d.end {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	d.f = f
	return err
}

// next returns the next entries, none at the end.
func (d *dirReader) next(ctx context.Context) (batch []iofs.DirEntry, err error) {
	if d.end {
		return nil, nil
	}
	err = d.s.pool.do(ctx, func() (err error) {
		if err = d.open(); err != nil {
			return err
		}
		batch, err = d.f.ReadDir(readDirBatch)
		return err
	})
	if err == io.EOF {
		d.end, err = true, nil
	}
	return batch, err
}

// all returns the entries that are left and closes the directory.
func (d *dirReader) all(ctx context.Context) (out []iofs.DirEntry, err error) {
	defer d.close()
	for {
		batch, err := d.next(ctx)
		if err != nil || len(batch) == 0 {
			return out, err
		}
		out = append(out, batch...)
	}
}

func (d *dirReader) close() {
	if d.f != nil {
		_ = d.f.Close()
		d.f = nil
	}
	d.end = true
}

func (s *Service) mkdir(ctx context.Context, p api.MkdirParams) error {
	mode, recursive := uint32(0o777), false
	if o := p.Options; o != nil {
		recursive = set(o.Recursive)
		if o.Mode != nil {
			mode = *o.Mode & 0o777
		}
	}
	err := s.pool.do(ctx, func() error {
		if recursive {
			return makeAll(s.resolve(p.Path), mode)
		}
		return unix.Mkdir(s.resolve(p.Path), mode)
	})
	return failed(err, "mkdir", p.Path)
}

// makeAll makes a directory with its missing parents, all of the same mode. A
// directory that exists already is fine.
func makeAll(path string, mode uint32) error {
	err := unix.Mkdir(path, mode)
	if err == unix.ENOENT {
		if parent := filepath.Dir(path); parent != path && path != "" {
			if err := makeAll(parent, mode); err != nil {
				return err
			}
			err = unix.Mkdir(path, mode)
		}
	}
	if err == nil {
		return nil
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

func (s *Service) remove(ctx context.Context, p api.RemoveParams) error {
	recursive := p.Options != nil && set(p.Options.Recursive)
	err := s.pool.do(ctx, func() error { return remove(s.resolve(p.Path), recursive) })
	return failed(err, "remove", p.Path)
}

// remove removes a file, a link or a directory; unlike os.RemoveAll it fails
// when there is none.
func remove(path string, recursive bool) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return unix.Unlink(path)
	case recursive:
		return os.RemoveAll(path)
	}
	return unix.Rmdir(path)
}

// set reads an optional flag that is off by default.
func set(flag *bool) bool { return flag != nil && *flag }

// unset reads an optional flag that is on by default.
func unset(flag *bool) bool { return flag != nil && !*flag }
