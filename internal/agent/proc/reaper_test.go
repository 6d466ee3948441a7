package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"golang.org/x/sys/unix"
)

const initHelper = "ATOLL_TEST_AS_INIT"

// TestReapsOrphans runs this test binary as a process that adopts orphans,
// as PID 1 does.
func TestReapsOrphans(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), rpctest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), initHelper+"=1")
	cmd.WaitDelay = rpctest.Patience
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// runAsInit is what the binary does then: many children whose statuses must
// not be lost, each with an orphan that must be reaped.
func runAsInit() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	m := newManager(Config{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}, true)
	const children = 50
	statuses := make(chan unix.WaitStatus, children)
	for i := range children {
		script := fmt.Sprintf("(sleep 0.05 &) ; exit %d", i%7)
		go func() {
			_, err := m.reaper.start(func() (int, error) {
				return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ()})
			}, func(_ int, ws unix.WaitStatus) { statuses <- ws })
			if err != nil {
				fmt.Println(err)
			}
		}()
	}
	sum := 0
	for range children {
		sum += (<-statuses).ExitStatus()
	}
	if sum != 7*21+0 {
		fmt.Println("sum of exit codes:", sum)
		return 1
	}
	return waitUntilChildless()
}

func waitUntilChildless() int {
	for end := time.Now().Add(rpctest.Patience); time.Now().Before(end); {
		if err := unix.Kill(-unix.Getpid(), 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return 1
		}
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if errors.Is(err, unix.ECHILD) {
			return 0
		}
		time.Sleep(5 * time.Millisecond) // there is no signal for "the last orphan was reaped"
	}
	fmt.Println("orphans are left")
	return 1
}
