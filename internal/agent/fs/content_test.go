package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// input is a stream of content from a client.
type input struct {
	io.Reader
	mu     sync.Mutex
	reason error // of the first Cancel
	cancel func(error)
}

func (in *input) Cancel(reason error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.reason == nil {
		in.reason = reason
		if in.cancel != nil {
			in.cancel(reason)
		}
	}
}

func (in *input) cancelled() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.reason
}

func TestReadFile(t *testing.T) {
	s, home := newService(t)
	big := strings.Repeat("0123456789abcdef", (readStep+readMin)/16)
	put(t, home, "empty", "")
	put(t, home, "big", big)
	for name, want := range map[string]string{"empty": "", "big": big} {
		if got, err := s.readFile(t.Context(), name, 1<<30); err != nil || string(got) != want {
			t.Errorf("readFile %s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := s.readFile(t.Context(), "/proc/self/status", 1<<20); err != nil || !strings.HasPrefix(string(got), "Name:") {
		t.Errorf("/proc file: %q, %v", got, err)
	}
	_, err := s.readFile(t.Context(), "nope", 1<<20)
	wantError(t, err, "NotFound", "ENOENT")
	_, err = s.readFile(t.Context(), ".", 1<<20)
	wantError(t, err, "IsADirectory", "EISDIR")
	_, err = s.readFile(t.Context(), "big", int64(len(big)-1))
	wantError(t, err, "RangeError", codeTooLarge)
	_, err = s.readFile(t.Context(), "/dev/zero", 1<<20)
	wantError(t, err, "RangeError", codeTooLarge)
	if _, err = s.readFile(t.Context(), "big", int64(len(big))); err != nil {
		t.Errorf("file of exactly the limit: %v", err)
	}
}

func TestReadTooLargeIsRefusedBeforeReading(t *testing.T) {
	s, home := newService(t)
	path := put(t, home, "sparse", "")
	must(t, os.Truncate(path, 1<<40))
	_, err := s.readFile(t.Context(), "sparse", maxRaw(api.MaxServerMessage))
	wantError(t, err, "RangeError", codeTooLarge)
}

func TestReadTextFile(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "grüß\xff dich")
	if got, err := s.readTextFile(t.Context(), "f", 1<<20); err != nil || got != "grüß\uFFFD dich" {
		t.Errorf("got %q, %v", got, err)
	}
	put(t, home, "zeros", strings.Repeat("\x00", 1000))
	_, err := s.readTextFile(t.Context(), "zeros", 5000)
	wantError(t, err, "RangeError", codeTooLarge)
}

func TestDecodeText(t *testing.T) {
	const x = "\uFFFD"
	for in, want := range map[string]string{
		"":                         "",
		"\uFEFFbom":                "\uFEFFbom",
		"\xff\xfe":                 x + x,
		"a\xe2\x82":                "a" + x,         // a cut euro sign is one
		"\xe2\x82z":                x + "z",         //
		"\xf0\x9f\x98":             x,               // a cut emoji is one
		"\xf0\x9f\xf0\x9f\x98\x80": x + "😀",         //
		"\xed\xa0\x80":             x + x + x,       // a surrogate
		"\xc0\xaf":                 x + x,           // overlong
		"\xf4\x90\x80\x80":         x + x + x + x,   // beyond U+10FFFF
		"\x80\x80":                 x + x,           // nothing to continue
		"\xe0\x80\x80":             x + x + x,       // overlong
		"ok\uFFFDok":               "ok" + x + "ok", // already one
	} {
		if got := decodeText([]byte(in)); got != want {
			t.Errorf("decodeText(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzDecodeText(f *testing.F) {
	f.Add([]byte("a\xe2\x82z"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out := decodeText(in)
		if !utf8.ValidString(out) {
			t.Errorf("%q decodes to %q", in, out)
		}
		if utf8.Valid(in) && out != string(in) {
			t.Errorf("valid %q changed to %q", in, out)
		}
	})
}

func TestWriteFile(t *testing.T) {
	s, home := newService(t)
	yes, no := ptr(true), ptr(false)
	path := filepath.Join(home, "f")
	for i, c := range []struct {
		options *api.WriteOptions
		data    string
		want    string
		class   string
	}{
		{&api.WriteOptions{Create: no}, "x", "", "NotFound"},
		{nil, "first", "first", ""},
		{nil, "2nd", "2nd", ""},
		{&api.WriteOptions{Append: yes}, "+", "2nd+", ""},
		{&api.WriteOptions{Append: yes, Create: no}, "+", "2nd++", ""},
		{&api.WriteOptions{CreateNew: yes}, "x", "2nd++", "AlreadyExists"},
		{&api.WriteOptions{CreateNew: yes, Append: yes}, "x", "2nd++", "AlreadyExists"},
		{&api.WriteOptions{Create: no}, "", "", ""},
	} {
		for _, streamed := range []bool{false, true} {
			if streamed && c.options != nil && c.options.Append != nil {
				continue
			}
			err := s.writeFile(t.Context(), "f", c.options, []byte(c.data))
			if streamed {
				in := &input{Reader: strings.NewReader(c.data)}
				err = s.writeStream(t.Context(), "f", c.options, in)
				if (err != nil) != (in.reason != nil) {
					t.Errorf("case %d: error %v, cancelled with %v", i, err, in.reason)
				}
			}
			if c.class != "" {
				wantError(t, err, c.class, map[string]string{"NotFound": "ENOENT", "AlreadyExists": "EEXIST"}[c.class])
			} else if err != nil {
				t.Errorf("case %d: %v", i, err)
			}
			if got, _ := os.ReadFile(path); string(got) != c.want {
				t.Errorf("case %d: %q, want %q", i, got, c.want)
			}
		}
	}
	wantError(t, s.writeFile(t.Context(), ".", nil, nil), "IsADirectory", "EISDIR")
	wantError(t, s.writeFile(t.Context(), "no/dir", nil, nil), "NotFound", "ENOENT")
	must(t, s.writeFile(t.Context(), "/dev/null", nil, []byte("x")))
}

func TestWriteFileMode(t *testing.T) {
	s, home := newService(t)
	o := &api.WriteOptions{Mode: ptr(uint32(0o777))}
	must(t, s.writeFile(t.Context(), "a", o, nil))
	put(t, home, "b", "")
	must(t, s.writeStream(t.Context(), "b", o, &input{Reader: strings.NewReader("x")}))
	for _, name := range []string{"a", "b"} {
		if info, _ := os.Stat(filepath.Join(home, name)); info.Mode().Perm() != 0o777 {
			t.Errorf("%s: mode %v", name, info.Mode())
		}
	}
}

func TestWriteStreamThatFails(t *testing.T) {
	s, home := newService(t)
	broken := errors.New("client broke")
	in := &input{Reader: io.MultiReader(strings.NewReader("part"), errReader{broken})}
	if err := s.writeStream(t.Context(), "f", nil, in); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if got := get(t, filepath.Join(home, "f")); got != "part" {
		t.Errorf("left %q", got)
	}
	if in.reason == nil {
		t.Error("the stream was not cancelled")
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestWriteStreamAborted(t *testing.T) {
	s, _ := newService(t)
	r, w := io.Pipe()
	in := &input{Reader: r, cancel: func(err error) { _ = r.CloseWithError(err) }}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.writeStream(ctx, "f", nil, in) }()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	why := errors.New("aborted")
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if in.cancelled() == nil {
		t.Error("the stream was not cancelled")
	}
}

func TestReadOfPipeIsAborted(t *testing.T) {
	for _, withWriter := range []bool{false, true} {
		s, home := newService(t)
		path := filepath.Join(home, "p")
		must(t, unix.Mkfifo(path, 0o600))
		if withWriter {
			w, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer w.Close()
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 40)
		for range cap(errs) { // more than there are workers
			go func() {
				_, err := s.readFile(ctx, "p", 1<<20)
				errs <- err
			}()
		}
		if _, err := s.stat(t.Context(), at("p")); err != nil {
			t.Errorf("the service is stuck: %v", err)
		}
		cancel()
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
	}
}

func TestPipeBetweenCalls(t *testing.T) {
	s, home := newService(t)
	must(t, unix.Mkfifo(filepath.Join(home, "p"), 0o600))
	sent := strings.Repeat("through the pipe ", 20_000)
	done := make(chan error, 1)
	go func() { done <- s.writeFile(t.Context(), "p", nil, []byte(sent)) }()
	got, err := s.readFile(t.Context(), "p", 1<<20)
	if err != nil || string(got) != sent {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	must(t, <-done)
}

// memoryDir is a directory on a fast file system, where there is one.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "fs-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTenThousandFilesAtOnce(t *testing.T) {
	for _, streamed := range []bool{false, true} {
		home := memoryDir(t)
		s := New(Config{UserID: uint32(os.Getuid()), Home: home})
		t.Cleanup(s.Close)
		const n = 10_000
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				name, data := fmt.Sprint("f", i), fmt.Sprint(i)
				err := error(nil)
				if streamed {
					err = s.writeStream(t.Context(), name, nil, &input{Reader: strings.NewReader(data)})
				} else {
					err = s.writeFile(t.Context(), name, nil, []byte(data))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if list, err := s.readDir(t.Context(), ".", 1<<30); err != nil || len(list) != n {
			t.Errorf("%d files, %v", len(list), err)
		}
		if got := get(t, filepath.Join(home, "f9999")); got != "9999" {
			t.Errorf("f9999 = %q", got)
		}
	}
}
