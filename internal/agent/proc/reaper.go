package proc

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reaper waits for child processes. Its lock orders starts, ends and signals:
// a child is known before its status can be taken, and is unknown before its
// number can belong to somebody else.
//
// As PID 1 (orphans set) one goroutine waits for all children, its own and
// the orphans that the kernel gives it. Elsewhere, where other code of the
// same program may have children too, a goroutine waits for each.
type reaper struct {
	orphans bool
	wake    chan struct{} // a child was started; one pending is enough

	mu       sync.RWMutex // write-held while statuses are taken
	tableMu  sync.Mutex   // guards children among starters
	children map[int]func(unix.WaitStatus)
}

// idleCheck is how often a reaper without children looks for orphans that
// came from outside, as from a command that the runtime put into the sandbox.
const idleCheck = time.Second

func newReaper(orphans bool) *reaper {
	return &reaper{
		orphans:  orphans,
		wake:     make(chan struct{}, 1),
		children: map[int]func(unix.WaitStatus){},
	}
}

// start forks a child. Ended is called once with its status, with the
// reaper's lock held.
func (r *reaper) start(fork func() (pid int, err error), ended func(pid int, ws unix.WaitStatus)) (int, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	pid, err := fork()
	if err != nil {
		return 0, err
	}
	r.tableMu.Lock()
	r.children[pid] = func(ws unix.WaitStatus) { ended(pid, ws) }
	r.tableMu.Unlock()
	if !r.orphans {
		go r.waitFor(pid)
		return pid, nil
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return pid, nil
}

// locked runs fn while no child can be reaped.
func (r *reaper) locked(fn func() error) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return fn()
}

// run reaps all children until ctx ends. It only returns once there is no
// child, or at the next child's end.
func (r *reaper) run(ctx context.Context) {
	idle := time.NewTimer(idleCheck)
	defer idle.Stop()
	for ctx.Err() == nil {
		if waitable(unix.P_ALL, 0) {
			r.reap(-1)
			continue
		}
		idle.Reset(idleCheck)
		select {
		case <-r.wake:
		case <-idle.C:
		case <-ctx.Done():
		}
	}
}

func (r *reaper) waitFor(pid int) {
	if waitable(unix.P_PID, pid) {
		r.reap(pid)
	}
}

// waitable blocks until a child has ended, and leaves it to be reaped. False
// means that there is no child.
func waitable(idType, id int) bool {
	for {
		err := unix.Waitid(idType, id, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// reap takes the status of every ended child that matches.
func (r *reaper) reap(which int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(which, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended := r.children[pid]; ended != nil {
			delete(r.children, pid)
			ended(ws)
		}
	}
}

// isInit says whether this process adopts orphans.
func isInit() bool { return os.Getpid() == 1 }
