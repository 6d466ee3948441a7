package fs

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// maxRead bounds one fileRead, whatever the client's messages may hold.
const maxRead = 64 << 20

// handles are the open files of one connection.
type handles struct {
	limit int
	owned sync.Once // the connection has been told to close them

	mu     sync.Mutex // guards what follows
	files  map[int64]*file
	next   int64
	closed bool
}

func newHandles(limit int) *handles {
	return &handles{limit: limit, files: map[int64]*file{}, next: 1}
}

// full reports the error of a connection that may not open one more file.
func (h *handles) full() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.files) >= h.limit {
		return tooManyHandles(h.limit)
	}
	return nil
}

// add takes over an open file, which is closed if there is no room for it.
func (h *handles) add(f *file) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.files) >= h.limit {
		_ = f.Close()
		return 0, tooManyHandles(h.limit)
	}
	id := h.next
	h.next++
	h.files[id] = f
	return id, nil
}

func (h *handles) get(id int64) (*file, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, ok := h.files[id]; ok {
		return f, nil
	}
	return nil, badResource()
}

// take is get for the call that closes the file.
func (h *handles) take(id int64) (*file, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.files[id]
	if !ok {
		return nil, badResource()
	}
	delete(h.files, id)
	return f, nil
}

// closeAll closes every file; none can be added afterwards.
func (h *handles) closeAll() {
	h.mu.Lock()
	files := h.files
	h.files, h.closed = nil, true
	h.mu.Unlock()
	for _, f := range files {
		_ = f.Close()
	}
}

// openFlags maps the options of open, refusing the combinations that Deno
// refuses.
func openFlags(o *api.OpenOptions) (flags int, mode uint32, err error) {
	if o == nil {
		read := true
		o = &api.OpenOptions{Read: &read}
	}
	if err := checkOpen(o); err != nil {
		return 0, 0, err
	}
	mode = 0o666
	if o.Mode != nil {
		mode = *o.Mode
	}
	return accessFlags(o) | creationFlags(o), mode, nil
}

func checkOpen(o *api.OpenOptions) error {
	writes := set(o.Write) || set(o.Append)
	creates := set(o.Create) || set(o.CreateNew)
	switch {
	case !set(o.Read) && !writes && !creates && !set(o.Truncate):
		return badOption("OpenOptions requires at least one option to be true")
	case set(o.Truncate) && !set(o.Write):
		return badOption("'truncate' option requires 'write' option")
	case creates && !writes:
		return badOption("'create' or 'createNew' options require 'write' or 'append' option")
	case set(o.Truncate) && set(o.Append) && !set(o.CreateNew):
		return newError("TypeError", "EINVAL", "'truncate' and 'append' options cannot be used together")
	}
	return nil
}

func accessFlags(o *api.OpenOptions) int {
	flags := unix.O_RDONLY
	switch writes := set(o.Write) || set(o.Append); {
	case writes && set(o.Read):
		flags = unix.O_RDWR
	case writes:
		flags = unix.O_WRONLY
	}
	if set(o.Append) {
		flags |= unix.O_APPEND
	}
	return flags
}

func creationFlags(o *api.OpenOptions) int {
	if set(o.CreateNew) {
		return unix.O_CREAT | unix.O_EXCL
	}
	flags := 0
	if set(o.Create) {
		flags |= unix.O_CREAT
	}
	if set(o.Truncate) {
		flags |= unix.O_TRUNC
	}
	return flags
}

func (s *Service) openHandle(ctx context.Context, h *handles, p api.OpenParams) (api.FileHandle, error) {
	flags, mode, err := openFlags(p.Options)
	if err != nil {
		return api.FileHandle{}, err
	}
	return s.addHandle(ctx, h, p.Path, flags, mode)
}

// createHandle makes or empties a file and opens it for reading and writing.
func (s *Service) createHandle(ctx context.Context, h *handles, p api.PathParams) (api.FileHandle, error) {
	return s.addHandle(ctx, h, p.Path, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o666)
}

func (s *Service) addHandle(ctx context.Context, h *handles, path string, flags int, mode uint32) (api.FileHandle, error) {
	if err := h.full(); err != nil {
		return api.FileHandle{}, err
	}
	f, err := s.open(ctx, path, flags, mode)
	if err != nil {
		return api.FileHandle{}, failed(err, "open", path)
	}
	id, err := h.add(f)
	return api.FileHandle{FileHandleID: id}, err
}

func (h *handles) closeHandle(_ context.Context, p api.FileHandle) error {
	f, err := h.take(p.FileHandleID)
	if err != nil {
		return err
	}
	return handleFailure(f.Close(), "close")
}

// handleFailure names the operation of a system error. A file that another
// call closed meanwhile is no resource any more.
func handleFailure(err error, op string) error {
	if errors.Is(err, os.ErrClosed) {
		return badResource()
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return &opError{op: op, err: errno}
	}
	return err
}

// read answers with at most limit bytes, and with nil at the end of the file.
func (h *handles) read(ctx context.Context, p api.FileReadParams, limit int64) (api.FileReadResult, error) {
	f, err := h.get(p.FileHandleID)
	if err != nil {
		return api.FileReadResult{}, err
	}
	if p.Length < 0 {
		return api.FileReadResult{}, outOfRange("length %d is negative", p.Length)
	}
	data := api.Bytes{}
	if p.Length > 0 {
		data = make(api.Bytes, f.expect(min(p.Length, limit, maxRead)))
		n, err := f.read(ctx, data)
		if err == io.EOF {
			return api.FileReadResult{}, nil
		}
		if err != nil {
			return api.FileReadResult{}, handleFailure(err, "read")
		}
		data = data[:n]
	}
	return api.FileReadResult{Data: &data}, nil
}

// unsized is the buffer for a file of which nobody knows how much it has.
const unsized = 1 << 20

// expect bounds a buffer by what the file still has, so that a large length
// costs nothing on a small file.
func (f *file) expect(length int64) int64 {
	if length <= readMin {
		return length
	}
	if !f.regular {
		return min(length, unsized)
	}
	rest := int64(0)
	_ = f.control(func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		at, err := unix.Seek(fd, 0, io.SeekCurrent)
		rest = st.Size - at
		return err
	})
	return min(length, max(rest, readMin))
}

// write answers with how much was written; a failure after a part is left to
// the next call, as write(2) does.
func (h *handles) write(ctx context.Context, p api.FileWriteParams) (api.FileWriteResult, error) {
	f, err := h.get(p.FileHandleID)
	if err != nil {
		return api.FileWriteResult{}, err
	}
	n, err := f.write(ctx, p.Data)
	if err != nil && n == 0 {
		return api.FileWriteResult{}, handleFailure(err, "write")
	}
	return api.FileWriteResult{BytesWritten: n}, nil
}

func (h *handles) seek(ctx context.Context, p api.FileSeekParams) (api.FileSeekResult, error) {
	f, err := h.get(p.FileHandleID)
	if err != nil {
		return api.FileSeekResult{}, err
	}
	if p.Whence < io.SeekStart || p.Whence > io.SeekEnd {
		return api.FileSeekResult{}, newError("TypeError", codeOutOfRange, "Invalid seek mode: %d", p.Whence)
	}
	var at int64
	err = f.onWorker(ctx, func(fd int) (err error) {
		at, err = unix.Seek(fd, int64(p.Offset), p.Whence)
		return err
	})
	return api.FileSeekResult{Position: at}, handleFailure(err, "seek")
}

func (h *handles) stat(ctx context.Context, p api.FileHandle) (info api.FileInfo, err error) {
	err = h.call(ctx, p.FileHandleID, "stat", func(fd int) (err error) {
		info, err = statAt(fd, "", unix.AT_EMPTY_PATH)
		return err
	})
	return info, err
}

func (h *handles) sync(ctx context.Context, p api.FileHandle) error {
	return h.call(ctx, p.FileHandleID, "sync", unix.Fsync)
}

func (h *handles) syncData(ctx context.Context, p api.FileHandle) error {
	return h.call(ctx, p.FileHandleID, "sync", unix.Fdatasync)
}

func (h *handles) truncate(ctx context.Context, p api.FileTruncateParams) error {
	size := p.Len
	if size == nil {
		size = p.Size
	}
	return h.call(ctx, p.FileHandleID, "truncate", func(fd int) error { return unix.Ftruncate(fd, length(size)) })
}

func (h *handles) utime(ctx context.Context, p api.FileUtimeParams) error {
	times, err := timespecs(p.Atime, p.Mtime)
	if err != nil {
		return err
	}
	return h.call(ctx, p.FileHandleID, "utime", func(fd int) error { return futimens(fd, &times) })
}

// call runs a system call on a handle's descriptor, on a worker.
func (h *handles) call(ctx context.Context, id int64, op string, run func(fd int) error) error {
	f, err := h.get(id)
	if err != nil {
		return err
	}
	err = f.onWorker(ctx, func(fd int) error { return restart(func() error { return run(fd) }) })
	return handleFailure(err, op)
}
