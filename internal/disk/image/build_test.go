package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/errs"
)

var complete = []string{"debian-13.erofs", "debian-13.json", "debian-13.modules", "debian-13.vmlinuz"}

func TestBuild(t *testing.T) {
	h := newFakeHost(t)
	meta, err := h.builder().build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(complete, h.names()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	image, err := Open(h.dir, "builtin:debian-13")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(meta, image.Metadata); diff != "" {
		t.Errorf("metadata (-returned +stored):\n%s", diff)
	}
	if err := image.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if meta.Name != "builtin:debian-13" || meta.Suite != "trixie" || meta.Versions["deno"] != "2.9.6" || meta.Packages["bash"] != "5.2" {
		t.Errorf("metadata = %+v", meta)
	}
	if text, _ := os.ReadFile(image.File); !strings.HasPrefix(string(text), "erofs of sandbox\n") {
		t.Errorf("image was made of %q: the host's name must be gone", text)
	}
	if text, _ := os.ReadFile(image.Kernel); string(text) != "kernel\n" || meta.Versions["linux"] != "6.12.1-cloud" {
		t.Errorf("kernel %q is %q", meta.Versions["linux"], text)
	}
}

func TestBuildAgainIsNoOp(t *testing.T) {
	h := newFakeHost(t)
	first, err := h.builder().build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.builder().build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("metadata changed:\n%s", diff)
	}
	if n := h.bootstraps(); n != 1 {
		t.Errorf("built %d times, want 1", n)
	}
	if !strings.Contains(h.say.String(), "up to date") {
		t.Errorf("output does not say that the image is up to date:\n%s", &h.say)
	}
}

func TestBuildWhenInputsDiffer(t *testing.T) {
	for name, change := range map[string]func(*builder){
		"force":   func(b *builder) { b.Force = true },
		"package": func(b *builder) { b.recipe.Packages = append(slices.Clone(b.recipe.Packages), "cowsay") },
		"script":  func(b *builder) { b.recipe.Customise = []byte("#!/bin/sh\n") },
		"mirror":  func(b *builder) { b.recipe.Mirror = "file:///mirror" },
		"damage":  func(b *builder) { os.Truncate(b.files.File(), 1) },
		"kernel":  func(b *builder) { os.Remove(b.files.Kernel()) },
		"modules": func(b *builder) { os.Truncate(b.files.Modules(), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			if _, err := h.builder().build(t.Context()); err != nil {
				t.Fatal(err)
			}
			b := h.builder()
			change(b)
			if _, err := b.build(t.Context()); err != nil {
				if name != "mirror" { // the fake takes the last argument as the root
					t.Fatal(err)
				}
			}
			if n := h.bootstraps(); n != 2 {
				t.Errorf("built %d times, want 2", n)
			}
		})
	}
}

func TestFailedBuildLeavesTheOldImage(t *testing.T) {
	h := newFakeHost(t)
	first, err := h.builder().build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.tool("mmdebstrap", "#!/bin/sh\necho 'E: mirror is down'\necho 'hint: try later' >&2\nexit 7\n")
	b := h.builder()
	b.Force = true
	_, err = b.build(t.Context())
	if err == nil {
		t.Fatal("build succeeded")
	}
	for _, want := range []string{"install Debian packages", "mmdebstrap", "exit status 7", "E: mirror is down", "hint: try later"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if diff := cmp.Diff(complete, h.names()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if image, err := Open(h.dir, "debian-13"); err != nil || image.Metadata.Digest != first.Digest {
		t.Errorf("old image: %v, %v", image, err)
	}
}

func TestFailures(t *testing.T) {
	missing := func(name string) func(*fakeHost) {
		return func(h *fakeHost) {
			os.Remove(filepath.Join(h.bin, name))
			t.Setenv("PATH", h.bin)
		}
	}
	for name, c := range map[string]struct {
		break_ func(*fakeHost)
		want   []string
	}{
		"no mmdebstrap": {missing("mmdebstrap"), []string{"apt-get install mmdebstrap"}},
		"no erofs":      {missing("mkfs.erofs"), []string{"apt-get install erofs-utils"}},
		"no npm":        {missing("npm"), []string{"apt-get install nodejs npm"}},
		"old erofs": {func(h *fakeHost) { h.tool("mkfs.erofs", "#!/bin/sh\necho mkfs.erofs 1.4\n") },
			[]string{"version 1.4", "1.5 or later"}},
		"strange erofs": {func(h *fakeHost) { h.tool("mkfs.erofs", "#!/bin/sh\nexit 1\n") }, []string{"version"}},
		"package gone": {func(h *fakeHost) { os.Remove(filepath.Join(h.npm, "deno.tgz")) },
			[]string{"fetch deno", "404 no such package"}},
		"package changed": {func(h *fakeHost) {
			h.publish("deno", denoFiles, map[string]string{"package/deno": "evil"})
			h.pins = h.pins[:3]
		}, []string{"deno@1.0.0", "not the pinned"}},
		"npm writes nothing": {func(h *fakeHost) { h.tool("npm", "#!/bin/sh\n") }, []string{"0 archives"}},
		"root incomplete": {func(h *fakeHost) {
			h.tool("mmdebstrap", fakeMmdebstrap+"rm \"$root/usr/bin/sudo\"; touch \"$root/tmp/left\"\n")
		}, []string{"/usr/bin/sudo: is missing", "/tmp/*: must not be there"}},
		"kernel in the root": {func(h *fakeHost) {
			h.tool("mmdebstrap", fakeMmdebstrap+"mkdir \"$root/boot\"; touch \"$root/boot/vmlinuz\"; rm \"$root\"/usr/lib/modules/*/modules.dep\n")
		}, []string{"/boot/*: must not be there", "modules.dep: is missing"}},
		"no kernel": {func(h *fakeHost) {
			h.tool("mmdebstrap", fakeMmdebstrap+"rm \"$work/vmlinuz\"\n")
		}, []string{"gather the kernel", "vmlinuz"}},
		"no modules": {func(h *fakeHost) {
			h.tool("mmdebstrap", fakeMmdebstrap+"rm \"$work\"/modules/*\n")
		}, []string{"gather the kernel", "there are none"}},
		"erofs fails": {func(h *fakeHost) {
			h.tool("mkfs.erofs", "#!/bin/sh\n[ $1 = -V ] && echo mkfs.erofs 1.8 && exit; echo no space; exit 1\n")
		}, []string{"write the EROFS file", "no space"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			c.break_(h)
			_, err := h.builder().build(t.Context())
			if err == nil {
				t.Fatal("build succeeded")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
			if left := h.names(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestNeedsRootAndSpace(t *testing.T) {
	h := newFakeHost(t)
	b := h.builder()
	b.euid = 1000
	if _, err := b.build(t.Context()); !errors.Is(err, errs.Precondition) {
		t.Errorf("as user: %v", err)
	}
	b = h.builder()
	b.space = 1 << 62
	if _, err := b.build(t.Context()); !errors.Is(err, errs.Exhausted) {
		t.Errorf("without space: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no directory":  {},
		"unknown image": {Dir: "/x", Name: "builtin:debian-99"},
		"path as name":  {Dir: "/x", Name: "../debian-13"},
		"unknown arch":  {Dir: "/x", Arch: "riscv64"},
	} {
		if _, err := Build(t.Context(), o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

// A signal ends the build at once, its tool with all its children, and leaves
// nothing.
func TestCancel(t *testing.T) {
	h := newFakeHost(t)
	ready := filepath.Join(h.bin, "ready")
	h.tool("mmdebstrap", "#!/bin/sh\nfor root; do :; done\nmkdir -p \"$root/etc\"\nsleep 100 & echo $! >"+ready+".part\nmv "+ready+".part "+ready+"\nwait\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		defer cancel(errors.New("interrupted"))
		awaitFile(ctx, ready)
	}()
	_, err := h.builder().build(ctx)
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error = %v", err)
	}
	if left := h.names(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a killed build left is removed by the next one.
func TestLeftovers(t *testing.T) {
	h := newFakeHost(t)
	b := h.builder()
	if err := os.MkdirAll(filepath.Join(b.work, "root", "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.files.File(), []byte("moved, but its metadata was not"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(h.dir, "debian-13"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a file without metadata is an image: %v", err)
	}
	if _, err := b.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(complete, h.names()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// Two builds at once are one build: the second waits and finds it done.
func TestConcurrentBuilds(t *testing.T) {
	h := newFakeHost(t)
	var wg sync.WaitGroup
	for range 2 {
		b := h.builder()
		b.say = newProgress(new(bytes.Buffer))
		b.tools.echo = b.say
		wg.Go(func() {
			if _, err := b.build(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.bootstraps(); n != 1 {
		t.Errorf("built %d times, want 1", n)
	}
}

func TestLockEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("nobody to wait for") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lock(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want canceled", err)
	}
	unlock()
	again, err := lock(t.Context(), path, func() { t.Error("unlock did not unlock") })
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// awaitFile polls for a file that another process makes.
func awaitFile(ctx context.Context, path string) {
	for ticker := time.Tick(5 * time.Millisecond); ; {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker:
		}
	}
}
