package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identity is a user as whom the workers act.
type identity struct {
	uid, gid uint32
	groups   []uint32
}

// needed reports whether threads of this process have to change at all: only
// root can become somebody else.
func (id identity) needed() bool { return os.Geteuid() == 0 && id.uid != 0 }

// assume makes the calling thread, and no other, act as id. The thread must be
// locked and must never be unlocked again.
//
// The real and saved ids stay root's, so that the user cannot signal or trace
// the thread; its effective capabilities are cleared by the change of the
// effective user (capabilities(7)). gVisor does not implement setfsuid(2),
// which would otherwise be the narrower tool. The raw calls are meant: package
// syscall's wrappers change all threads.
func (id identity) assume() error {
	const keep = ^uintptr(0)
	groups := append([]uint32{id.gid}, id.groups...)
	_, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	runtime.KeepAlive(groups)
	if errno != 0 {
		return fmt.Errorf("set groups of file worker: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(id.gid), keep); errno != 0 {
		return fmt.Errorf("set group of file worker: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(id.uid), keep); errno != 0 {
		return fmt.Errorf("set user of file worker: %w", errno)
	}
	return nil
}

// errPoolClosed is what jobs get after the service has been closed.
var errPoolClosed = errors.New("the file service is closed")

// job is one piece of work for a worker; done is closed once it has run.
type job struct {
	run  func() error
	err  error
	done chan struct{}
}

// pool runs jobs on its workers, which it starts as they are needed.
type pool struct {
	id   identity
	max  int
	jobs chan *job     // written by do, read by the workers
	quit chan struct{} // closed by close

	mu      sync.Mutex // guards workers and closed
	workers int
	closed  bool
	wg      sync.WaitGroup
}

func newPool(id identity, workers int) *pool {
	return &pool{id: id, max: workers, jobs: make(chan *job), quit: make(chan struct{})}
}

// do runs a job and returns its error. Jobs queue while all workers are busy;
// ctx ends the queueing, but not a job that has begun.
func (p *pool) do(ctx context.Context, run func() error) error {
	j := &job{run: run, done: make(chan struct{})}
	if err := p.submit(ctx, j); err != nil {
		return err
	}
	<-j.done
	return j.err
}

func (p *pool) submit(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	select {
	case p.jobs <- j: // an idle worker
		return nil
	default:
		p.grow()
	}
	select {
	case p.jobs <- j:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.quit:
		return errPoolClosed
	}
}

// grow starts one more worker unless there are enough.
func (p *pool) grow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.workers == p.max {
		return
	}
	p.workers++
	p.wg.Go(p.work)
}

// work is the life of a worker. It returns without unlocking its thread, which
// the runtime then ends instead of giving it to another goroutine.
func (p *pool) work() {
	var failure error
	if p.id.needed() {
		runtime.LockOSThread()
		failure = p.id.assume()
	}
	for {
		select {
		case j := <-p.jobs:
			j.err = failure // a worker that is still root runs nothing
			if failure == nil {
				j.err = j.run()
			}
			close(j.done)
		case <-p.quit:
			return
		}
	}
}

// close ends the workers after their current jobs and waits for them.
func (p *pool) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.quit)
	}
	p.mu.Unlock()
	p.wg.Wait()
}
