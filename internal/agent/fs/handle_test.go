package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// newHandlesFor returns a connection's handles, closed at the test's end.
func newHandlesFor(t *testing.T, limit int) *handles {
	h := newHandles(limit)
	t.Cleanup(h.closeAll)
	return h
}

func openTest(t *testing.T, s *Service, h *handles, path string, o *api.OpenOptions) int64 {
	t.Helper()
	f, err := s.openHandle(t.Context(), h, api.OpenParams{Path: path, Options: o})
	must(t, err)
	return f.FileHandleID
}

func readTest(t *testing.T, h *handles, id, length int64) (string, bool) {
	t.Helper()
	r, err := h.read(t.Context(), api.FileReadParams{FileHandleID: id, Length: length}, maxRead)
	must(t, err)
	if r.Data == nil {
		return "", false
	}
	return string(*r.Data), true
}

func TestHandleReadWriteSeek(t *testing.T) {
	s, home := newService(t)
	h := newHandlesFor(t, 10)
	made, err := s.createHandle(t.Context(), h, at("f"))
	must(t, err)
	id := made.FileHandleID
	w, err := h.write(t.Context(), api.FileWriteParams{FileHandleID: id, Data: api.Bytes("hello world")})
	if err != nil || w.BytesWritten != 11 {
		t.Errorf("write: %+v, %v", w, err)
	}
	for _, c := range []struct {
		offset int64
		whence int
		want   int64
	}{{2, 0, 2}, {3, 1, 5}, {-4, 2, 7}} {
		got, err := h.seek(t.Context(), api.FileSeekParams{FileHandleID: id, Offset: api.BigInt(c.offset), Whence: c.whence})
		if err != nil || got.Position != c.want {
			t.Errorf("seek %+v: %+v, %v", c, got, err)
		}
	}
	if got, ok := readTest(t, h, id, 100); got != "orld" || !ok {
		t.Errorf("read %q, %v", got, ok)
	}
	if _, ok := readTest(t, h, id, 100); ok {
		t.Error("no end of file")
	}
	if got, ok := readTest(t, h, id, 0); got != "" || !ok {
		t.Error("a read of nothing is the end of the file")
	}
	must(t, h.truncate(t.Context(), api.FileTruncateParams{FileHandleID: id, Len: ptr(int64(4))}))
	must(t, h.sync(t.Context(), made))
	must(t, h.syncData(t.Context(), made))
	if got := get(t, filepath.Join(home, "f")); got != "hell" {
		t.Errorf("file %q", got)
	}
	must(t, h.truncate(t.Context(), api.FileTruncateParams{FileHandleID: id, Size: ptr(int64(2))}))
	when := api.Date{Time: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)}
	must(t, h.utime(t.Context(), api.FileUtimeParams{FileHandleID: id, Atime: when, Mtime: when}))
	if info, err := h.stat(t.Context(), made); err != nil || info.Size != 2 || !info.IsFile || !info.Mtime.Equal(when.Time) {
		t.Errorf("stat %+v, %v", info, err)
	}
	must(t, h.truncate(t.Context(), api.FileTruncateParams{FileHandleID: id}))
	must(t, h.closeHandle(t.Context(), made))
	wantError(t, h.closeHandle(t.Context(), made), "BadResource", "")
}

func TestOpenOptions(t *testing.T) {
	yes := ptr(true)
	for _, c := range []struct {
		name    string
		exists  bool
		options *api.OpenOptions
		class   string
		code    string
	}{
		{"default", true, nil, "", ""},
		{"default missing", false, nil, "NotFound", "ENOENT"},
		{"nothing", true, &api.OpenOptions{}, "Error", ""},
		{"only mode", true, &api.OpenOptions{Mode: ptr(uint32(0o600))}, "Error", ""},
		{"write missing", false, &api.OpenOptions{Write: yes}, "NotFound", "ENOENT"},
		{"create", false, &api.OpenOptions{Write: yes, Create: yes}, "", ""},
		{"create without write", false, &api.OpenOptions{Read: yes, Create: yes}, "Error", ""},
		{"createNew without write", false, &api.OpenOptions{CreateNew: yes}, "Error", ""},
		{"createNew", false, &api.OpenOptions{Append: yes, CreateNew: yes}, "", ""},
		{"createNew existing", true, &api.OpenOptions{Write: yes, CreateNew: yes}, "AlreadyExists", "EEXIST"},
		{"truncate without write", true, &api.OpenOptions{Read: yes, Truncate: yes}, "Error", ""},
		{"truncate and append", true, &api.OpenOptions{Write: yes, Append: yes, Truncate: yes}, "TypeError", "EINVAL"},
		{"all", true, &api.OpenOptions{Read: yes, Write: yes, Create: yes, Truncate: yes}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, home := newService(t)
			h := newHandlesFor(t, 10)
			if c.exists {
				put(t, home, "f", "x")
			}
			_, err := s.openHandle(t.Context(), h, api.OpenParams{Path: "f", Options: c.options})
			if c.class == "" {
				must(t, err)
			} else {
				wantError(t, err, c.class, c.code)
			}
		})
	}
}

func TestOpenModeAndAppend(t *testing.T) {
	s, home := newService(t)
	h := newHandlesFor(t, 10)
	put(t, home, "f", "one ")
	id := openTest(t, s, h, "f", &api.OpenOptions{Append: ptr(true), Read: ptr(true)})
	_, err := h.write(t.Context(), api.FileWriteParams{FileHandleID: id, Data: api.Bytes("two")})
	must(t, err)
	if got := get(t, filepath.Join(home, "f")); got != "one two" {
		t.Errorf("appended: %q", got)
	}
	openTest(t, s, h, "new", &api.OpenOptions{Write: ptr(true), Create: ptr(true), Mode: ptr(uint32(0o600))})
	if info, _ := os.Stat(filepath.Join(home, "new")); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	dir := openTest(t, s, h, ".", nil)
	_, err = h.read(t.Context(), api.FileReadParams{FileHandleID: dir, Length: 1}, maxRead)
	wantError(t, err, "IsADirectory", "EISDIR")
	_, err = h.write(t.Context(), api.FileWriteParams{FileHandleID: dir, Data: api.Bytes("x")})
	wantError(t, err, "BadResource", "EBADF")
}

func TestHandleErrors(t *testing.T) {
	s, home := newService(t)
	h := newHandlesFor(t, 2)
	put(t, home, "f", strings.Repeat("x", 100))
	ctx, none := t.Context(), api.FileHandle{FileHandleID: 99}
	_, err := h.read(ctx, api.FileReadParams{FileHandleID: 99}, maxRead)
	wantError(t, err, "BadResource", "")
	_, err = h.write(ctx, api.FileWriteParams{FileHandleID: 99})
	wantError(t, err, "BadResource", "")
	_, err = h.seek(ctx, api.FileSeekParams{FileHandleID: 99})
	wantError(t, err, "BadResource", "")
	_, err = h.stat(ctx, none)
	wantError(t, err, "BadResource", "")
	for _, err := range []error{
		h.sync(ctx, none), h.syncData(ctx, none), h.truncate(ctx, api.FileTruncateParams{FileHandleID: 99}), h.closeHandle(ctx, none),
		h.utime(ctx, api.FileUtimeParams{FileHandleID: 99}), h.lock(ctx, api.FileLockParams{FileHandleID: 99}), h.unlock(ctx, none),
	} {
		wantError(t, err, "BadResource", "")
	}
	id := openTest(t, s, h, "f", nil)
	_, err = h.read(ctx, api.FileReadParams{FileHandleID: id, Length: -1}, maxRead)
	wantError(t, err, "RangeError", codeOutOfRange)
	_, err = h.seek(ctx, api.FileSeekParams{FileHandleID: id, Offset: -1})
	wantError(t, err, "TypeError", "EINVAL")
	_, err = h.seek(ctx, api.FileSeekParams{FileHandleID: id, Whence: 3})
	wantError(t, err, "TypeError", codeOutOfRange)
	if r, err := h.read(ctx, api.FileReadParams{FileHandleID: id, Length: 1 << 60}, 10); err != nil || len(*r.Data) != 10 {
		t.Errorf("a read over the message's limit: %v", err)
	}
	openTest(t, s, h, "f", nil)
	_, err = s.openHandle(ctx, h, api.OpenParams{Path: "f"})
	wantError(t, err, "Error", codeTooMany)
	h.closeAll()
	_, err = s.openHandle(ctx, h, api.OpenParams{Path: "f"})
	wantError(t, err, "Error", codeTooMany)
}

func TestLock(t *testing.T) {
	s, home := newService(t)
	h := newHandlesFor(t, 10)
	put(t, home, "f", "")
	a, b := openTest(t, s, h, "f", nil), openTest(t, s, h, "f", nil)
	ctx := t.Context()
	must(t, h.lock(ctx, api.FileLockParams{FileHandleID: a}))
	must(t, h.lock(ctx, api.FileLockParams{FileHandleID: b})) // both shared
	must(t, h.unlock(ctx, api.FileHandle{FileHandleID: b}))
	must(t, h.lock(ctx, api.FileLockParams{FileHandleID: a, Exclusive: ptr(true)}))

	waiting, cancel := context.WithCancel(ctx)
	got := make(chan error, 1)
	lock := func(ctx context.Context) {
		got <- h.lock(ctx, api.FileLockParams{FileHandleID: b, Exclusive: ptr(true)})
	}
	go lock(waiting)
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("aborted lock: %v", err)
	}
	go lock(ctx)
	must(t, h.unlock(ctx, api.FileHandle{FileHandleID: a}))
	must(t, <-got)
	go func() { got <- h.lock(ctx, api.FileLockParams{FileHandleID: a}) }()
	must(t, h.closeHandle(ctx, api.FileHandle{FileHandleID: a}))
	if err := <-got; err == nil {
		t.Error("locked a closed handle")
	} else {
		wantError(t, err, "BadResource", "")
	}
}

// What another call closes in between is no resource any more, wherever the
// first one stands.
func TestControlOfAClosedFile(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	h := newHandlesFor(t, 10)
	f, err := h.get(openTest(t, s, h, "f", nil))
	must(t, err)
	must(t, f.Close())
	err = f.control(func(int) error { return nil })
	wantError(t, handleFailure(err, "stat"), "BadResource", "")
}

func TestClosingEndsAWaitingRead(t *testing.T) {
	s, home := newService(t)
	h := newHandlesFor(t, 10)
	must(t, unix.Mkfifo(filepath.Join(home, "p"), 0o600))
	id := openTest(t, s, h, "p", &api.OpenOptions{Read: ptr(true), Write: ptr(true)})
	_, err := h.write(t.Context(), api.FileWriteParams{FileHandleID: id, Data: api.Bytes("x")})
	must(t, err)
	if got, _ := readTest(t, h, id, 10); got != "x" {
		t.Errorf("read %q", got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := h.read(t.Context(), api.FileReadParams{FileHandleID: id, Length: 10}, maxRead)
		done <- err
	}()
	must(t, h.closeHandle(t.Context(), api.FileHandle{FileHandleID: id}))
	wantError(t, <-done, "BadResource", "")
}
