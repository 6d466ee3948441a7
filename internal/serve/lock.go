package serve

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/errs"
)

// lockFile locks a file for as long as it is open. The kernel lets go of it
// when the process dies, however it dies. Shims don't inherit it: Go opens
// files close-on-exec.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errs.New(errs.Conflict, "ALREADY_RUNNING", "another server uses this data directory: stop it first, or give this one a data_dir of its own")
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, f.Close()))
	}
	return f, nil
}
