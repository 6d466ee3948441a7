package fs

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

// lock waits for an advisory lock on a file. It asks again and again instead
// of sleeping in flock(2), so that neither a worker nor the closing of the
// file or the connection is held up.
func (h *handles) lock(ctx context.Context, p api.FileLockParams) error {
	how := unix.LOCK_SH
	if set(p.Exclusive) {
		how = unix.LOCK_EX
	}
	for wait := pollMin; ; wait = min(2*wait, pollMax) {
		// The handle is looked up each time: it may be closed meanwhile.
		err := h.call(ctx, p.FileHandleID, "lock", func(fd int) error { return unix.Flock(fd, how|unix.LOCK_NB) })
		if !is(err, unix.EWOULDBLOCK) {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (h *handles) unlock(ctx context.Context, p api.FileHandle) error {
	return h.call(ctx, p.FileHandleID, "unlock", func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
}
