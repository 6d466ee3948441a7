package fs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func TestStat(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "hello")
	must(t, os.Symlink("f", filepath.Join(home, "l")))
	must(t, unix.Mkfifo(filepath.Join(home, "p"), 0o600))

	f, err := s.stat(t.Context(), at("f"))
	must(t, err)
	if !f.IsFile || f.Size != 5 || f.Mode&0o777 != 0o644 || f.Nlink != 1 || f.Ino == 0 || f.Blksize == 0 || f.UID != uint32(os.Getuid()) {
		t.Errorf("stat f = %+v", f)
	}
	if age := time.Since(f.Birthtime.Time); age < -time.Minute || age > time.Hour {
		t.Errorf("birth time %v is %v ago", f.Birthtime, age)
	}
	if l, err := s.stat(t.Context(), at("l")); err != nil || l.Ino != f.Ino || l.IsSymlink {
		t.Errorf("stat l = %+v, %v", l, err)
	}
	if l, err := s.lstat(t.Context(), at("l")); err != nil || !l.IsSymlink {
		t.Errorf("lstat l = %+v, %v", l, err)
	}
	if p, err := s.stat(t.Context(), at("p")); err != nil || !p.IsFifo {
		t.Errorf("stat p = %+v, %v", p, err)
	}
	if d, err := s.stat(t.Context(), at("/dev/null")); err != nil || !d.IsCharDevice || d.Rdev == 0 {
		t.Errorf("stat /dev/null = %+v, %v", d, err)
	}
	if d, err := s.stat(t.Context(), at(home)); err != nil || !d.IsDirectory {
		t.Errorf("stat home = %+v, %v", d, err)
	}
}

func TestStatErrors(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	must(t, os.Symlink("loop", filepath.Join(home, "loop")))
	for path, want := range map[string][2]string{
		"nope":                    {"NotFound", "ENOENT"},
		"":                        {"NotFound", "ENOENT"},
		"f/below":                 {"NotADirectory", "ENOTDIR"},
		"loop":                    {"FilesystemLoop", "ELOOP"},
		"a\x00b":                  {"TypeError", "EINVAL"},
		strings.Repeat("x", 300):  {"Error", "ENAMETOOLONG"},
		strings.Repeat("x/", 5e3): {"Error", "ENAMETOOLONG"},
	} {
		_, err := s.stat(t.Context(), at(path))
		wantError(t, err, want[0], want[1])
	}
}

func TestBirthtimeFallsBack(t *testing.T) {
	x := unix.Statx_t{Ctime: unix.StatxTimestamp{Sec: 20}, Mtime: unix.StatxTimestamp{Sec: 10}}
	if got := birthtime(&x).Unix(); got != 10 {
		t.Errorf("birth time %d, want the older 10", got)
	}
}

func TestChmod(t *testing.T) {
	s, home := newService(t)
	path := put(t, home, "f", "")
	must(t, s.chmod(t.Context(), api.ChmodParams{Path: "f", Mode: 0o100750}))
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v", info.Mode())
	}
	wantError(t, s.chmod(t.Context(), api.ChmodParams{Path: "nope", Mode: 0o600}), "NotFound", "ENOENT")
}

func TestChown(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	must(t, s.chown(t.Context(), api.ChownParams{Path: "f"}))
	must(t, s.chown(t.Context(), api.ChownParams{Path: "f", UID: ptr(int64(os.Getuid())), GID: ptr(int64(os.Getgid()))}))
	wantError(t, s.chown(t.Context(), api.ChownParams{Path: "nope"}), "NotFound", "ENOENT")
	wantError(t, s.chown(t.Context(), api.ChownParams{Path: "f", UID: ptr(int64(-1))}), "RangeError", codeOutOfRange)
	wantError(t, s.chown(t.Context(), api.ChownParams{Path: "f", GID: ptr(int64(1) << 32)}), "RangeError", codeOutOfRange)
}

func TestUtime(t *testing.T) {
	s, home := newService(t)
	put(t, home, "f", "")
	old := api.Date{Time: time.Date(1972, 12, 11, 19, 54, 57, 123e6, time.UTC)}
	recent := api.Date{Time: time.Date(2024, 2, 29, 1, 2, 3, 4e6, time.UTC)}
	must(t, s.utime(t.Context(), api.UtimeParams{Path: "f", Atime: old, Mtime: recent}))
	info, err := s.stat(t.Context(), at("f"))
	must(t, err)
	if !info.Atime.Equal(old.Time) || !info.Mtime.Equal(recent.Time) {
		t.Errorf("times %v %v", info.Atime, info.Mtime)
	}
	wantError(t, s.utime(t.Context(), api.UtimeParams{Path: "nope"}), "NotFound", "ENOENT")
}

func TestTruncate(t *testing.T) {
	s, home := newService(t)
	path := put(t, home, "f", "hello")
	for _, c := range []struct {
		length *int64
		want   string
	}{{ptr(int64(7)), "hello\x00\x00"}, {ptr(int64(3)), "hel"}, {ptr(int64(-4)), ""}, {nil, ""}} {
		must(t, s.truncate(t.Context(), api.TruncateParams{Name: "f", Length: c.length}))
		if got := get(t, path); got != c.want {
			t.Errorf("truncated to %q, want %q", got, c.want)
		}
	}
	wantError(t, s.truncate(t.Context(), api.TruncateParams{Name: "nope"}), "NotFound", "ENOENT")
	wantError(t, s.truncate(t.Context(), api.TruncateParams{Name: home}), "IsADirectory", "EISDIR")
}

func TestUmask(t *testing.T) {
	s, home := newService(t)
	before, err := s.setUmask(api.UmaskParams{})
	must(t, err)
	defer s.setUmask(api.UmaskParams{Mask: &before})
	if got, err := s.setUmask(api.UmaskParams{Mask: ptr(uint32(0o077))}); err != nil || got != before {
		t.Errorf("umask(077) = %#o, %v, want %#o", got, err, before)
	}
	if got, _ := s.setUmask(api.UmaskParams{}); got != 0o077 {
		t.Errorf("umask() = %#o, want 077", got)
	}
	must(t, s.writeFile(t.Context(), "f", nil, nil))
	if info, _ := os.Stat(filepath.Join(home, "f")); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v under umask 077", info.Mode())
	}
	_, err = s.setUmask(api.UmaskParams{Mask: ptr(uint32(0o1000))})
	wantError(t, err, "RangeError", codeOutOfRange)
}
