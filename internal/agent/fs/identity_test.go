package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

func TestPoolBoundsItsWorkers(t *testing.T) {
	p := newPool(identity{}, 4)
	defer p.close()
	var now, most atomic.Int32
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			_ = p.do(context.Background(), func() error {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				now.Add(-1)
				return nil
			})
		})
	}
	wg.Wait()
	if most.Load() > 4 || p.workers > 4 {
		t.Errorf("%d jobs at once on %d workers", most.Load(), p.workers)
	}
}

func TestPoolQueueEndsWithContext(t *testing.T) {
	p := newPool(identity{}, 1)
	defer p.close()
	started, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- p.do(context.Background(), func() error { close(started); <-release; return nil })
	}()
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	queued := make(chan error, 1)
	go func() { queued <- p.do(ctx, func() error { t.Error("ran"); return nil }) }()
	cancel()
	if err := <-queued; !errors.Is(err, context.Canceled) {
		t.Errorf("queued job: %v", err)
	}
	close(release)
	must(t, <-done)
}

func TestClosedPoolRefuses(t *testing.T) {
	p := newPool(identity{}, 1)
	p.close()
	p.close()
	if err := p.do(context.Background(), func() error { return nil }); !errors.Is(err, errPoolClosed) {
		t.Errorf("error %v", err)
	}
}

// As root, as in the guest, files belong to the user and root's are refused.
func TestRootActsAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can act as another user")
	}
	const uid, gid = 1000, 1001
	home, err := os.MkdirTemp("/tmp", "fs-identity-")
	must(t, err)
	defer os.RemoveAll(home)
	must(t, os.Chown(home, uid, gid))
	put(t, home, "secret", "root's")
	must(t, os.Chmod(filepath.Join(home, "secret"), 0o600))
	put(t, home, "public", "root's")
	s := New(Config{UserID: uid, GroupID: gid, Home: home})
	defer s.Close()
	ctx := t.Context()

	must(t, s.writeFile(ctx, "mine", nil, nil))
	must(t, s.mkdir(ctx, api.MkdirParams{Path: "dir"}))
	for _, name := range []string{"mine", "dir"} {
		if info, err := s.stat(ctx, at(name)); err != nil || info.UID != uid || info.GID != gid {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	_, err = s.readFile(ctx, "secret", 1<<20)
	wantError(t, err, "PermissionDenied", "EACCES")
	_, err = s.readFile(ctx, "public", 1<<20)
	must(t, err)
	wantError(t, s.writeFile(ctx, "public", nil, nil), "PermissionDenied", "EACCES")
	wantError(t, s.chmod(ctx, api.ChmodParams{Path: "public", Mode: 0o777}), "PermissionDenied", "EPERM")
	wantError(t, s.chown(ctx, api.ChownParams{Path: "mine", UID: ptr(int64(0))}), "PermissionDenied", "EPERM")
	h := newHandlesFor(t, 2)
	id := openTest(t, s, h, "public", nil)
	wantError(t, h.utime(ctx, api.FileUtimeParams{FileHandleID: id, Atime: api.Date{}, Mtime: api.Date{}}), "PermissionDenied", "EPERM")
	if unix.Geteuid() != 0 {
		t.Error("the test's own thread lost root")
	}
	if real, err := s.realPath(ctx, at("mine")); err != nil || real != filepath.Join(home, "mine") {
		t.Errorf("realPath: %q, %v", real, err)
	}
}
