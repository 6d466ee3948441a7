//go:build e2e

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/atollhq/atoll/internal/layout"
)

const (
	dirPrefix = "atoll-e2e-"
	ownerFile = "owner" // locked by the process that a directory belongs to
	keepFile  = "keep"  // there if the directory is not to be removed
)

// claiming is held by the one that sweeps and makes a directory: a sweeper
// would take a directory that is just being made for one that is left.
var claiming sync.Mutex

// claim frees what earlier runs left and makes a directory of this process's.
func claim(ctx context.Context) (dir string, owner *os.File, err error) {
	claiming.Lock()
	defer claiming.Unlock()
	if err := sweepStale(ctx); err != nil {
		return "", nil, fmt.Errorf("free what an earlier run left: %w", err)
	}
	if dir, err = os.MkdirTemp("", dirPrefix); err != nil {
		return "", nil, err
	}
	owner, err = own(dir)
	return dir, owner, err
}

// own marks a directory as belonging to this process, for as long as it runs
// or the returned file is open.
func own(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("own %s: %w", dir, err)
	}
	return f, nil
}

// sweepStale frees what test processes left that could not clean up: killed
// ones, and those that ran into the time limit of go test.
func sweepStale(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		if _, serr := os.Stat(filepath.Join(dir, ownerFile)); serr != nil {
			continue // only being made, or by someone else
		}
		if _, serr := os.Stat(filepath.Join(dir, keepFile)); serr == nil {
			continue
		}
		lock, oerr := own(dir)
		if oerr != nil {
			continue // its process lives
		}
		s := &Server{Dir: dir, Data: layout.Data{Dir: filepath.Join(dir, "data")}}
		err = errors.Join(err, s.killPrograms("atoll"), s.sweep(ctx), os.RemoveAll(dir), lock.Close())
	}
	return err
}

// killPrograms kills this server's processes that run a program.
func (s *Server) killPrograms(name string) (err error) {
	for _, p := range s.Processes() {
		if p.Name == name {
			err = errors.Join(err, syscall.Kill(p.PID, syscall.SIGKILL))
		}
	}
	return err
}
