package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	data := archive(t, map[string]string{"package/bin/node": "n", "package/bin/node2": "x", "package/LICENSE": "l"})
	if err := unpackFrom(bytes.NewReader(data), dir, nodeFiles); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin/node"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("node: %v, %v", info, err)
	}
	for _, name := range []string{"bin/node2", "LICENSE"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was unpacked, nobody chose it", name)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		content map[string]string
		want    string
	}{
		"escape":   {map[string]string{"package/../../etc/passwd": "x"}, "outside"},
		"absolute": {map[string]string{"/etc/passwd": "x"}, "outside"},
		"nothing":  {map[string]string{"package/README.md": "x"}, `no "bin/node"`},
	} {
		dir := t.TempDir()
		err := unpackFrom(bytes.NewReader(archive(t, c.content)), dir, nodeFiles)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := unpackFrom(strings.NewReader("no archive"), t.TempDir(), nodeFiles); err == nil {
		t.Error("text was accepted as an archive")
	}
}

func FuzzUnpack(f *testing.F) {
	var t testing.T
	f.Add(archive(&t, map[string]string{"package/bin/node": "n"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		_ = unpackFrom(bytes.NewReader(data), dir, npmFiles)
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) > 1 {
			t.Errorf("files outside of the directory: %v, %v", entries, err)
		}
	})
}

func TestParseMounts(t *testing.T) {
	const info = `22 1 0:20 / /proc rw - proc proc rw
23 1 8:1 / /i/.build-x/root rw - ext4 d rw
24 1 0:5 / /i/.build-x/root/dev\040a rw - devtmpfs d rw
25 1 0:5 / /i/.build-xy rw - devtmpfs d rw
26 1
`
	got, err := parseMounts(strings.NewReader(info), "/i/.build-x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/i/.build-x/root/dev a", "/i/.build-x/root"}; strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("mounts = %q, want %q", got, want)
	}
}

func TestOutputTail(t *testing.T) {
	var shown bytes.Buffer
	o := &output{echo: newProgress(&shown)}
	for range 30 {
		o.Write([]byte("one\n\ntw"))
	}
	o.Write([]byte(strings.Repeat("x", 3*lineBytes) + "\nlast without newline"))
	o.flush()
	if len(o.last) != tailLines || o.last[tailLines-1] != "last without newline" {
		t.Errorf("tail = %q", o.last)
	}
	if n := len(o.last[tailLines-2]); n != lineBytes {
		t.Errorf("long line has %d bytes, want %d", n, lineBytes)
	}
	if !strings.Contains(shown.String(), "      twone\n") {
		t.Errorf("progress = %q", shown.String())
	}
}
