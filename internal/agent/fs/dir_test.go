package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func TestReadDir(t *testing.T) {
	s, home := newService(t)
	list, err := s.readDir(t.Context(), ".", 1<<20)
	if err != nil || list == nil || len(list) != 0 {
		t.Fatalf("empty directory: %v, %v", list, err)
	}
	put(t, home, "f", "")
	must(t, os.Mkdir(filepath.Join(home, "d"), 0o755))
	must(t, os.Symlink("d", filepath.Join(home, "l")))
	must(t, unix.Mkfifo(filepath.Join(home, "p"), 0o600))
	list, err = s.readDir(t.Context(), "", 1<<20)
	wantError(t, err, "NotFound", "ENOENT")
	list, err = s.readDir(t.Context(), home, 1<<20)
	must(t, err)
	slices.SortFunc(list, func(a, b api.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	want := []api.DirEntry{{Name: "d", IsDirectory: true}, {Name: "f", IsFile: true}, {Name: "l", IsSymlink: true}, {Name: "p"}}
	if !slices.Equal(list, want) {
		t.Errorf("got %+v, want %+v", list, want)
	}
	_, err = s.readDir(t.Context(), "f", 1<<20)
	wantError(t, err, "NotADirectory", "ENOTDIR")
	_, err = s.readDir(t.Context(), ".", 100)
	wantError(t, err, "RangeError", codeTooLarge)
}

func TestReadDirOfManyEntries(t *testing.T) {
	s, home := newService(t)
	const n = 3*readDirBatch + 1
	for i := range n {
		put(t, home, fmt.Sprint(i), "")
	}
	list, err := s.readDir(t.Context(), ".", 1<<20)
	if err != nil || len(list) != n {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

func mkdir(path string, recursive bool, mode *uint32) api.MkdirParams {
	return api.MkdirParams{Path: path, Options: &api.MkdirOptions{Recursive: &recursive, Mode: mode}}
}

func TestMkdir(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	must(t, s.mkdir(t.Context(), api.MkdirParams{Path: "a"}))
	wantError(t, s.mkdir(t.Context(), api.MkdirParams{Path: "a"}), "AlreadyExists", "EEXIST")
	wantError(t, s.mkdir(t.Context(), api.MkdirParams{Path: "x/y"}), "NotFound", "ENOENT")
	must(t, s.mkdir(t.Context(), mkdir("x/y/z/", true, ptr(uint32(0o700)))))
	must(t, s.mkdir(t.Context(), mkdir("x/y/z", true, nil)))
	if info, err := os.Stat(filepath.Join(home, "x/y")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("x/y: %v, %v", info, err)
	}
	wantError(t, s.mkdir(t.Context(), mkdir("f", true, nil)), "AlreadyExists", "EEXIST")
	wantError(t, s.mkdir(t.Context(), mkdir("f/g", true, nil)), "NotADirectory", "ENOTDIR")
	wantError(t, s.mkdir(t.Context(), mkdir("", true, nil)), "NotFound", "ENOENT")
}

func remover(path string, recursive bool) api.RemoveParams {
	p := api.RemoveParams{Path: path}
	p.Options = &struct {
		Recursive *bool `json:"recursive,omitempty"`
	}{&recursive}
	return p
}

func TestRemove(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	put(t, home, "d/e/f", "")
	must(t, os.Symlink("d", filepath.Join(home, "l")))
	must(t, s.remove(t.Context(), api.RemoveParams{Path: "f"}))
	wantError(t, s.remove(t.Context(), api.RemoveParams{Path: "f"}), "NotFound", "ENOENT")
	wantError(t, s.remove(t.Context(), remover("f", true)), "NotFound", "ENOENT")
	wantError(t, s.remove(t.Context(), api.RemoveParams{Path: "d"}), "Error", "ENOTEMPTY")
	must(t, s.remove(t.Context(), remover("l", true)))
	if _, err := os.Stat(filepath.Join(home, "d/e/f")); err != nil {
		t.Errorf("removing a link removed what it leads to: %v", err)
	}
	must(t, s.remove(t.Context(), remover("d", true)))
	must(t, os.Mkdir(filepath.Join(home, "empty"), 0o755))
	must(t, s.remove(t.Context(), api.RemoveParams{Path: "empty"}))
	if left, _ := os.ReadDir(home); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func temp(dir, prefix, suffix *string) api.MakeTempParams {
	var p api.MakeTempParams
	p.Options = &struct {
		Dir    *string `json:"dir,omitempty"`
		Prefix *string `json:"prefix,omitempty"`
		Suffix *string `json:"suffix,omitempty"`
	}{dir, prefix, suffix}
	return p
}

func TestMakeTemp(t *testing.T) {
	s, home := newService(t)
	dir, err := s.makeTempDir(t.Context(), api.MakeTempParams{})
	must(t, err)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || filepath.Dir(dir) != home {
		t.Errorf("%s: %v, %v", dir, info, err)
	}
	file, err := s.makeTempFile(t.Context(), temp(ptr(filepath.Base(dir)), ptr("pre-"), ptr(".txt")))
	must(t, err)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(file) != dir {
		t.Errorf("%s: %v, %v", file, info, err)
	}
	if !regexp.MustCompile(`^pre-[0-9a-f]+\.txt$`).MatchString(filepath.Base(file)) {
		t.Errorf("name %s", filepath.Base(file))
	}
	_, err = s.makeTempFile(t.Context(), temp(ptr("nope"), nil, nil))
	wantError(t, err, "NotFound", "ENOENT")
	for _, bad := range []string{"a/b", "../x", "a\nb", "a*"} {
		_, err = s.makeTempFile(t.Context(), temp(nil, &bad, nil))
		wantError(t, err, "Error", "")
		_, err = s.makeTempDir(t.Context(), temp(nil, nil, &bad))
		wantError(t, err, "Error", "")
	}
}

func TestLinksAndRename(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "x")
	must(t, s.link(t.Context(), api.LinkParams{Target: "f", Path: "hard"}))
	must(t, s.symlink(t.Context(), api.LinkParams{Target: "../no/where", Path: "soft"}))
	wantError(t, s.link(t.Context(), api.LinkParams{Target: "nope", Path: "h"}), "NotFound", "ENOENT")
	wantError(t, s.symlink(t.Context(), api.LinkParams{Target: "x", Path: "soft"}), "AlreadyExists", "EEXIST")
	if got, err := s.readLink(t.Context(), at("soft")); err != nil || got != "../no/where" {
		t.Errorf("readLink = %q, %v", got, err)
	}
	_, err := s.readLink(t.Context(), at("f"))
	wantError(t, err, "TypeError", "EINVAL")
	if info, _ := s.stat(t.Context(), at("hard")); info.Nlink != 2 {
		t.Errorf("nlink %d", info.Nlink)
	}
	must(t, s.rename(t.Context(), api.RenameParams{OldPath: "hard", NewPath: "moved"}))
	wantError(t, s.rename(t.Context(), api.RenameParams{OldPath: "hard", NewPath: "x"}), "NotFound", "ENOENT")
	if got := get(t, filepath.Join(home, "moved")); got != "x" {
		t.Errorf("moved = %q", got)
	}
}

func TestRealPath(t *testing.T) {
	s, home := newService(t)
	put(t, home, "d/f", "")
	must(t, os.Symlink("d", filepath.Join(home, "l")))
	must(t, os.Symlink("loop", filepath.Join(home, "loop")))
	for in, want := range map[string]string{
		".": home, "l/f": home + "/d/f", "l/..": home, "./d/../l/": home + "/d", "/": "/",
	} {
		if got, err := s.realPath(t.Context(), at(in)); err != nil || got != want {
			t.Errorf("realPath(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for in, code := range map[string][2]string{
		"nope": {"NotFound", "ENOENT"}, "": {"NotFound", "ENOENT"},
		"loop": {"FilesystemLoop", "ELOOP"}, "d/f/x": {"NotADirectory", "ENOTDIR"}, "x\x00": {"TypeError", "EINVAL"},
	} {
		_, err := s.realPath(t.Context(), at(in))
		wantError(t, err, code[0], code[1])
	}
}

func TestCopyFile(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", strings.Repeat("data", 1<<20))
	must(t, os.Chmod(filepath.Join(home, "f"), 0o751))
	put(t, home, "to", strings.Repeat("longer", 1<<20))
	cp := func(from, to string) error {
		return s.copyFile(t.Context(), api.CopyFileParams{FromPath: from, ToPath: to})
	}
	must(t, cp("f", "to"))
	must(t, cp("f", "new"))
	must(t, cp("f", "f"))
	for _, name := range []string{"f", "to", "new"} {
		info, err := os.Stat(filepath.Join(home, name))
		if err != nil || info.Mode().Perm() != 0o751 || info.Size() != 4<<20 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	must(t, cp("/proc/self/status", "proc"))
	if got := get(t, filepath.Join(home, "proc")); !strings.Contains(got, "Name:") {
		t.Errorf("copy of a /proc file: %q", got)
	}
	must(t, unix.Mkfifo(filepath.Join(home, "pipe"), 0o600))
	reader, err := os.OpenFile(filepath.Join(home, "pipe"), os.O_RDWR, 0)
	must(t, err)
	defer reader.Close()
	must(t, cp("proc", "pipe"))
	wantError(t, cp("pipe", "x"), "TypeError", "EINVAL")
	wantError(t, cp("nope", "x"), "NotFound", "ENOENT")
	wantError(t, cp("f", "no/dir"), "NotFound", "ENOENT")
	wantError(t, cp(".", "x"), "TypeError", "EINVAL")
	wantError(t, cp("f", "."), "IsADirectory", "EISDIR")
}
