package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/atollhq/atoll/api"
)

// FS is the file system of a sandbox. Relative paths start at the sandbox's
// home directory.
type FS struct{ conn *conn }

// Types of the wire that callers meet.
type (
	FileInfo     = api.FileInfo
	DirEntry     = api.DirEntry
	WalkEntry    = api.WalkEntry
	WalkOptions  = api.WalkOptions
	GlobOptions  = api.GlobOptions
	WriteOptions = api.WriteOptions
	OpenOptions  = api.OpenOptions
	MkdirOptions = api.MkdirOptions
)

// streamAbove is the size from which WriteFile sends a stream rather than one
// message, so that other calls get their turn, in bytes.
const streamAbove = 4 << 20

// codeTooLarge is how the server refuses to answer with more than one
// message holds.
const codeTooLarge = "ERR_MESSAGE_TOO_LARGE"

// ReadFile returns the content of a file. A file too large for one message is
// read in pieces; the result is then not a snapshot of one moment.
func (f *FS) ReadFile(ctx context.Context, path string) ([]byte, error) {
	id := f.conn.newAbortID()
	result, err := f.conn.exchange(ctx, request{
		method: "readFile",
		params: api.ReadFileParams{Path: path, AbortID: id},
		abort:  id,
	})
	if err != nil {
		return nil, err
	}
	if data, ok := cutBytes(result, `{"ok":"`, `"}`); ok {
		return data, nil
	}
	ok, err := okOf("readFile", result)
	if isTooLarge(err) {
		return f.readInPieces(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	var data api.Bytes
	if err := json.Unmarshal(ok, &data); err != nil {
		return nil, fmt.Errorf("readFile: read the result: %w", err)
	}
	return data, nil
}

func isTooLarge(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code() == codeTooLarge
}

func (f *FS) readInPieces(ctx context.Context, path string) ([]byte, error) {
	file, err := f.Open(ctx, path, OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat(ctx)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, info.Size+1)
	for {
		piece, err := file.next(readPiece)
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		data = append(data, piece...)
	}
}

// ReadTo copies a file to w in pieces, in bounded memory.
func (f *FS) ReadTo(ctx context.Context, path string, w io.Writer) (int64, error) {
	file, err := f.Open(ctx, path, OpenOptions{})
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.WriteTo(w)
}

// WriteFile writes data to a file, which it creates with mode 0666 less the
// umask unless o says otherwise. o may be nil.
func (f *FS) WriteFile(ctx context.Context, path string, data []byte, o *WriteOptions) error {
	if len(data) > streamAbove {
		return f.WriteFrom(ctx, path, &sliceReader{data: data}, o)
	}
	id := f.conn.newAbortID()
	_, err := f.conn.do(ctx, request{
		method: "writeFile",
		params: bulkParams{
			rest:  api.WriteFileParams{Path: path, AbortID: id, Options: o},
			field: "content",
			data:  data,
		},
		abort: id,
	})
	return err
}

// sliceReader is a bytes.Reader without WriteTo.
type sliceReader struct{ data []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// WriteFrom writes all of r to a file, in bounded memory. When r fails, the
// file keeps what was written until then.
func (f *FS) WriteFrom(ctx context.Context, path string, r io.Reader, o *WriteOptions) error {
	stream, err := f.conn.startStream(ctx)
	if err != nil {
		return err
	}
	id := f.conn.newAbortID()
	source := &recordingReader{r: r}
	copied := make(chan error, 1)
	_, err = f.conn.do(ctx, request{
		method: "writeFile",
		params: api.WriteFileParams{Path: path, AbortID: id, Options: o, ContentStreamID: &stream.id},
		abort:  id,
		sent:   func() { go func() { copied <- stream.copyFrom(source) }() },
	})
	if err != nil {
		// The copier stops at its next write; a Read that blocks is the
		// caller's own.
		f.conn.cancelOut(stream.id)
		return errors.Join(source.failed.get(), err)
	}
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recordingReader remembers how r failed: the server only tells that it did.
type recordingReader struct {
	r      io.Reader
	failed errorSlot
}

func (r *recordingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.failed.set(err)
	}
	return n, err
}

// ReadDir lists a directory.
func (f *FS) ReadDir(ctx context.Context, path string) ([]DirEntry, error) {
	return call[[]DirEntry](ctx, f.conn, "readDir", api.PathParams{Path: path})
}

// Stat follows symbolic links.
func (f *FS) Stat(ctx context.Context, path string) (FileInfo, error) {
	return call[FileInfo](ctx, f.conn, "stat", api.PathParams{Path: path})
}

// Lstat describes a symbolic link itself.
func (f *FS) Lstat(ctx context.Context, path string) (FileInfo, error) {
	return call[FileInfo](ctx, f.conn, "lstat", api.PathParams{Path: path})
}

// Mkdir makes one directory.
func (f *FS) Mkdir(ctx context.Context, path string, o *MkdirOptions) error {
	return f.conn.run(ctx, "mkdir", api.MkdirParams{Path: path, Options: o})
}

// MkdirAll makes a directory and those above it that are missing.
func (f *FS) MkdirAll(ctx context.Context, path string) error {
	recursive := true
	return f.Mkdir(ctx, path, &MkdirOptions{Recursive: &recursive})
}

// Remove removes a file or an empty directory.
func (f *FS) Remove(ctx context.Context, path string) error {
	return f.conn.run(ctx, "remove", api.RemoveParams{Path: path})
}

// RemoveAll removes a file or a directory with all it holds. That there is
// none is no error.
func (f *FS) RemoveAll(ctx context.Context, path string) error {
	params := map[string]any{"path": path, "options": map[string]bool{"recursive": true}}
	err := f.conn.run(ctx, "remove", params)
	if e, ok := errors.AsType[*Error](err); ok && e.Code() == "ENOENT" {
		return nil
	}
	return err
}

// Rename moves a file or directory within a file system.
func (f *FS) Rename(ctx context.Context, from, to string) error {
	return f.conn.run(ctx, "rename", api.RenameParams{OldPath: from, NewPath: to})
}

// Chmod sets the permission bits, with set-uid, set-gid and sticky.
func (f *FS) Chmod(ctx context.Context, path string, mode uint32) error {
	return f.conn.run(ctx, "chmod", api.ChmodParams{Path: path, Mode: mode})
}

// Chown sets owner and group; nil leaves one as it is.
func (f *FS) Chown(ctx context.Context, path string, uid, gid *int64) error {
	return f.conn.run(ctx, "chown", api.ChownParams{Path: path, UID: uid, GID: gid})
}

// CopyFile copies within the sandbox.
func (f *FS) CopyFile(ctx context.Context, from, to string) error {
	return f.conn.run(ctx, "copyFile", api.CopyFileParams{FromPath: from, ToPath: to})
}

// Link makes a hard link at path.
func (f *FS) Link(ctx context.Context, target, path string) error {
	return f.conn.run(ctx, "link", api.LinkParams{Target: target, Path: path})
}

// Symlink makes a symbolic link at path. target may be anything.
func (f *FS) Symlink(ctx context.Context, target, path string) error {
	return f.conn.run(ctx, "symlink", api.LinkParams{Target: target, Path: path})
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(ctx context.Context, path string) (string, error) {
	return call[string](ctx, f.conn, "readLink", api.PathParams{Path: path})
}

// RealPath resolves all symbolic links.
func (f *FS) RealPath(ctx context.Context, path string) (string, error) {
	return call[string](ctx, f.conn, "realPath", api.PathParams{Path: path})
}

// Truncate sets the size of a file, in bytes.
func (f *FS) Truncate(ctx context.Context, path string, size int64) error {
	return f.conn.run(ctx, "truncate", api.TruncateParams{Name: path, Length: &size})
}

// Umask sets the umask of the sandbox's file calls and returns the old one;
// with nil it only returns it.
func (f *FS) Umask(ctx context.Context, mask *uint32) (uint32, error) {
	return call[uint32](ctx, f.conn, "umask", api.UmaskParams{Mask: mask})
}

// Utime sets access and modification time, to the millisecond.
func (f *FS) Utime(ctx context.Context, path string, atime, mtime time.Time) error {
	return f.conn.run(ctx, "utime", api.UtimeParams{
		Path: path, Atime: api.Date{Time: atime}, Mtime: api.Date{Time: mtime},
	})
}

// TempOptions says where a temporary file goes and what it is called.
type TempOptions struct {
	Dir    string `json:"dir,omitempty"` // default /tmp
	Prefix string `json:"prefix,omitempty"`
	Suffix string `json:"suffix,omitempty"`
}

// MakeTempDir makes a new directory and returns its path.
func (f *FS) MakeTempDir(ctx context.Context, o TempOptions) (string, error) {
	return call[string](ctx, f.conn, "makeTempDir", map[string]any{"options": o})
}

// MakeTempFile makes a new, empty file and returns its path.
func (f *FS) MakeTempFile(ctx context.Context, o TempOptions) (string, error) {
	return call[string](ctx, f.conn, "makeTempFile", map[string]any{"options": o})
}

// Walk yields what is below path, path itself included. Leaving the loop
// early stops the walk in the sandbox.
func (f *FS) Walk(ctx context.Context, path string, o WalkOptions) iter.Seq2[WalkEntry, error] {
	return f.entries(ctx, "walk", api.WalkParams{Path: path, WalkOptions: o})
}

// Glob yields the paths that match a pattern.
func (f *FS) Glob(ctx context.Context, pattern string, o GlobOptions) iter.Seq2[WalkEntry, error] {
	return f.entries(ctx, "expandGlob", api.ExpandGlobParams{Glob: pattern, GlobOptions: o})
}

func (f *FS) entries(ctx context.Context, method string, params any) iter.Seq2[WalkEntry, error] {
	return func(yield func(WalkEntry, error) bool) {
		stream, err := f.openStream(ctx, method, params)
		if err != nil {
			yield(WalkEntry{}, err)
			return
		}
		defer stream.Close()
		for {
			piece, err := stream.next(ctx)
			if err == io.EOF {
				return
			}
			var entry WalkEntry
			if err == nil {
				err = json.Unmarshal(piece, &entry)
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// openStream makes a call whose result is a stream.
func (f *FS) openStream(ctx context.Context, method string, params any) (*inStream, error) {
	res, err := callRequest[api.StreamResult](ctx, f.conn, request{
		method: method,
		params: params,
		undo: func(ok json.RawMessage) {
			var res api.StreamResult
			if json.Unmarshal(ok, &res) == nil {
				f.conn.discard(&res.StreamID)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return f.conn.claim(&res.StreamID)
}
