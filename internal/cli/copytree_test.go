package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// hostileSource claims whatever its maps say.
type hostileSource struct {
	names map[string][]string // by directory
	links map[string]string
	deep  bool // every directory holds another
}

func (s hostileSource) stat(_ context.Context, p string) (entry, error) {
	if _, isLink := s.links[p]; isLink {
		return entry{kind: kindSymlink}, nil
	}
	if _, isDir := s.names[p]; isDir || s.deep {
		return entry{kind: kindDir, perm: 0o777}, nil
	}
	return entry{kind: kindFile, perm: 0o666 | 0o4000}, nil
}

func (s hostileSource) list(_ context.Context, dir string) ([]string, error) {
	if s.deep {
		return []string{"d"}, nil
	}
	return s.names[dir], nil
}

func (s hostileSource) open(context.Context, string, int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("evil")), nil
}

func (s hostileSource) readlink(_ context.Context, p string) (string, error) { return s.links[p], nil }
func (s hostileSource) join(dir, name string) string                         { return path.Join(dir, name) }

// TestHostileSources copies from sandboxes that try to write elsewhere.
func TestHostileSources(t *testing.T) {
	for name, s := range map[string]hostileSource{
		"dot dot":        {names: map[string][]string{"top": {".."}}},
		"slash":          {names: map[string][]string{"top": {"../evil"}}},
		"absolute":       {names: map[string][]string{"top": {"/evil"}}},
		"nul":            {names: map[string][]string{"top": {"a\x00b"}}},
		"link then file": {names: map[string][]string{"top": {"x", "x/../y"}}, links: map[string]string{"top/x": ".."}},
		"endless":        {deep: true},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			inner := filepath.Join(outer, "inner")
			if err := os.Mkdir(inner, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(inner)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			job := copyJob{from: s, to: rootTree{root}, progress: &progress{}}
			if err := job.copy(t.Context(), "top", "."); err == nil {
				t.Error("no error")
			}
			if left, _ := os.ReadDir(outer); len(left) != 1 {
				t.Errorf("the copy left %v", left)
			}
		})
	}
}

// TestWriteThroughLink writes to a name that is a link out of the destination.
func TestWriteThroughLink(t *testing.T) {
	outer := t.TempDir()
	inner := filepath.Join(outer, "inner")
	target := filepath.Join(outer, "target")
	for _, err := range []error{
		os.Mkdir(inner, 0o755), os.WriteFile(target, []byte("good"), 0o600),
		os.Symlink("../target", filepath.Join(inner, "x")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(inner)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := (rootTree{root}).write(t.Context(), "x", strings.NewReader("evil"), 0o666); err == nil {
		t.Error("no error")
	}
	if data, _ := os.ReadFile(target); string(data) != "good" {
		t.Errorf("the file is now %q", data)
	}
}

// TestModes keeps permission bits and nothing else.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	job := copyJob{from: hostileSource{names: map[string][]string{"top": {"f"}}}, to: rootTree{root}, progress: &progress{}}
	if err := job.copy(t.Context(), "top", "new"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "new", "f"))
	if err != nil || info.Mode() != 0o666 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if job.progress.totals() != (copyTotals{Files: 1, Directories: 1, Bytes: 4}) {
		t.Errorf("totals %+v", job.progress.totals())
	}
}

func TestProgressLine(t *testing.T) {
	var out bytes.Buffer
	p := &progress{err: &out, draw: true}
	p.begin("dir/na\x1b[31mme")
	p.file()
	p.finish()
	if strings.Contains(out.String(), "\x1b[31m") {
		t.Errorf("a file name reached the terminal unquoted: %q", out.String())
	}
	if !strings.Contains(out.String(), "1 files") {
		t.Errorf("got %q", out.String())
	}
	for n, want := range map[float64]string{0: "0 B", 1536: "1.5 KiB", 3 << 20: "3 MiB", 5 << 40: "5 TiB"} {
		if got := size(n); got != want {
			t.Error(fmt.Sprintf("%v: got %s, want %s", n, got, want))
		}
	}
}
