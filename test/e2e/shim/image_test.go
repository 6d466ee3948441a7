//go:build e2e

package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/launch"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// ownImage gives the test the image under a name of its own. What it returns
// gives that name to something else.
func ownImage(t *testing.T) (replace func()) {
	t.Helper()
	base := strings.TrimSuffix(os.Getenv("ATOLL_TEST_IMAGE"), ".erofs")
	own := filepath.Join(t.TempDir(), "image")
	if err := os.Symlink(base+".erofs", own+".erofs"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{".vmlinuz", ".modules"} {
		raw, err := os.ReadFile(base + kind)
		if err == nil {
			err = os.WriteFile(own+kind, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("ATOLL_TEST_IMAGE", own+".erofs")
	return func() {
		other := own + ".other"
		if err := os.WriteFile(other, make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(other, own+".erofs"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImageIsReplaced: a machine that was saved goes on with the image that it
// knows, and so do its forks, when there is another one by then.
func TestImageIsReplaced(t *testing.T) {
	for driver, launch := range map[string]func(*testing.T, *launch.Launcher, string, *sandbox.Fork) *box{
		"gvisor": func(t *testing.T, l *launch.Launcher, id string, f *sandbox.Fork) *box {
			s := spec(t, id)
			if f != nil {
				s.Origin, s.Personal = &f.Origin, f.Personal()
			}
			return launchBox(t, l, s)
		},
		"microvm": func(t *testing.T, l *launch.Launcher, id string, f *sandbox.Fork) *box {
			if f == nil {
				return microvmBox(t, l, id, nil, wire.Personal{})
			}
			origin := wire.Origin(f.Origin)
			return microvmBox(t, l, id, &origin, wire.Personal{})
		},
	} {
		t.Run(driver, func(t *testing.T) {
			replace := ownImage(t)
			l := launcher(t)
			parent := launch(t, l, driver+"-image", nil)
			replace()
			works := func(b *box) {
				t.Helper()
				const fresh = "cat /usr/bin/perl >/dev/null; ls /usr/bin | wc -l; sha256sum /usr/lib/os-release"
				if got := b.sh(fresh); !strings.Contains(got, "os-release") || strings.HasPrefix(got, "0") {
					t.Errorf("%s: %q", b.id, got)
				}
			}
			parent.suspend()
			parent.resume()
			works(parent)
			f := parent.fork()
			works(launch(t, l, driver+"-image-child", f))
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
