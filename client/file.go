package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/atollhq/atoll/api"
)

// readPiece is how much one fileRead of the bulk readers asks for, in bytes.
const readPiece = 4 << 20

// writePiece is how much one fileWrite carries at most, in bytes.
const writePiece = 4 << 20

// File is an open file in a sandbox. Read, Write and Seek have no context of
// their own: they run in the one that Open was given.
type File struct {
	conn *conn
	ctx  context.Context
	id   int64
}

// Open opens a file. The zero options open it for reading. ctx bounds the
// file's whole life.
func (f *FS) Open(ctx context.Context, path string, o OpenOptions) (*File, error) {
	if o.Read == nil && o.Write == nil && o.Append == nil {
		o.Read = new(true)
	}
	return f.openFile(ctx, "open", api.OpenParams{Path: path, Options: &o})
}

// Create makes or empties a file and opens it for reading and writing.
func (f *FS) Create(ctx context.Context, path string) (*File, error) {
	return f.openFile(ctx, "create", api.PathParams{Path: path})
}

func (f *FS) openFile(ctx context.Context, method string, params any) (*File, error) {
	handle, err := callRequest[api.FileHandle](ctx, f.conn, request{
		method: method,
		params: params,
		undo: func(ok json.RawMessage) {
			var h api.FileHandle
			if json.Unmarshal(ok, &h) == nil {
				_ = (&File{conn: f.conn, id: h.FileHandleID}).Close()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return &File{conn: f.conn, ctx: ctx, id: handle.FileHandleID}, nil
}

// next returns at most n bytes from the current position, or io.EOF.
func (f *File) next(n int) ([]byte, error) {
	result, err := f.conn.exchange(f.ctx, request{
		method: "fileRead",
		params: api.FileReadParams{FileHandleID: f.id, Length: int64(n)},
	})
	if err != nil {
		return nil, err
	}
	data, found := cutBytes(result, `{"ok":{"data":"`, `"}}`)
	if !found {
		if data, err = decodeRead(result); err != nil {
			return nil, err
		}
	}
	if len(data) > n {
		return nil, fmt.Errorf("fileRead: the server sent %d bytes, %d were asked for", len(data), n)
	}
	if len(data) == 0 && n > 0 {
		return nil, io.EOF
	}
	return data, nil
}

func decodeRead(result json.RawMessage) ([]byte, error) {
	ok, err := okOf("fileRead", result)
	if err != nil {
		return nil, err
	}
	var r api.FileReadResult
	if err := json.Unmarshal(ok, &r); err != nil {
		return nil, fmt.Errorf("fileRead: read the result: %w", err)
	}
	if r.Data == nil {
		return nil, nil
	}
	return *r.Data, nil
}

// Read reads up to len(p) bytes, at most 4 MiB at a time.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data, err := f.next(min(len(p), readPiece))
	return copy(p, data), err
}

// WriteTo copies the rest of the file to w in large pieces.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		piece, err := f.next(readPiece)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(piece)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Write writes all of p.
func (f *File) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		piece := p[written:min(len(p), written+writePiece)]
		res, err := callRequest[api.FileWriteResult](f.ctx, f.conn, request{
			method: "fileWrite",
			params: bulkParams{rest: api.FileHandle{FileHandleID: f.id}, field: "data", data: piece},
		})
		if err != nil {
			return written, err
		}
		if res.BytesWritten <= 0 || res.BytesWritten > len(piece) {
			return written, io.ErrShortWrite
		}
		written += res.BytesWritten
	}
	return written, nil
}

// Seek moves the position; whence is one of io.SeekStart, io.SeekCurrent and
// io.SeekEnd.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	res, err := call[api.FileSeekResult](f.ctx, f.conn, "fileSeek", api.FileSeekParams{
		FileHandleID: f.id, Offset: api.BigInt(offset), Whence: whence,
	})
	return res.Position, err
}

// Close closes the file, also after the end of its context.
func (f *File) Close() error {
	ctx, cancel := context.WithTimeout(f.conn.ctx, noticeTimeout)
	defer cancel()
	return f.conn.run(ctx, "fileClose", f.handle())
}

func (f *File) handle() api.FileHandle { return api.FileHandle{FileHandleID: f.id} }

// Stat describes the open file.
func (f *File) Stat(ctx context.Context) (FileInfo, error) {
	return call[FileInfo](ctx, f.conn, "fileStat", f.handle())
}

// Truncate sets the file's size, in bytes.
func (f *File) Truncate(ctx context.Context, size int64) error {
	return f.conn.run(ctx, "fileTruncate", api.FileTruncateParams{FileHandleID: f.id, Len: &size})
}

// Sync flushes data and metadata to the disk.
func (f *File) Sync(ctx context.Context) error {
	return f.conn.run(ctx, "fileSync", f.handle())
}

// SyncData flushes data.
func (f *File) SyncData(ctx context.Context) error {
	return f.conn.run(ctx, "fileSyncData", f.handle())
}

// Lock takes an advisory lock and waits for it.
func (f *File) Lock(ctx context.Context, exclusive bool) error {
	return f.conn.run(ctx, "fileLock", api.FileLockParams{FileHandleID: f.id, Exclusive: &exclusive})
}

// Unlock releases the lock.
func (f *File) Unlock(ctx context.Context) error {
	return f.conn.run(ctx, "fileUnlock", f.handle())
}

// Utime sets access and modification time, to the millisecond.
func (f *File) Utime(ctx context.Context, atime, mtime time.Time) error {
	return f.conn.run(ctx, "fileUtime", api.FileUtimeParams{
		FileHandleID: f.id, Atime: api.Date{Time: atime}, Mtime: api.Date{Time: mtime},
	})
}
