package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

const (
	// controlPatience bounds a short command of runsc. One that takes longer
	// has a sentry that doesn't answer.
	controlPatience = 20 * time.Second
	// bellPatience bounds the start of a restored guest, which reads all of
	// its memory from the host's disk.
	bellPatience = 2 * time.Minute

	saidBytes = 64 << 10 // of a command's stderr, of which the first line is kept
)

// Pause has the sentry stop the guest, and then stops the sentry, which would
// be busy with clocks and packets. Being stopped by a signal, it still dies
// with runsc; what a freezer of cgroup v1 holds doesn't. The processes in
// which guest code runs are left alone: the sentry uses the same signals to
// handle them.
func (m *gvisorMachine) Pause(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.paused.Load() && m.alive() == nil {
		return nil
	}
	if err := m.stopGuest(ctx); err != nil {
		return err
	}
	if err := m.stopSentry(); err != nil {
		return errors.Join(err, m.runSentry(), m.runGuest(ctx))
	}
	m.paused.Store(true)
	return nil
}

// Resume lets sentry and guest go on.
func (m *gvisorMachine) Resume(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if !m.paused.Load() {
		return m.alive()
	}
	if err := m.runSentry(); err != nil {
		return err
	}
	if err := m.runGuest(ctx); err != nil {
		return errors.Join(err, m.stopSentry())
	}
	m.paused.Store(false)
	return nil
}

// Save writes the guest's memory and disk to a directory.
func (m *gvisorMachine) Save(ctx context.Context, o machine.SaveOptions) (machine.Snapshot, error) {
	m.power.Lock()
	defer m.power.Unlock()
	begin := time.Now()
	goOn, err := m.readyToSave(ctx, o)
	if err != nil {
		return machine.Snapshot{}, err
	}
	saved := machine.Snapshot{Driver: Name, Dir: o.Dir}
	err = m.runsc(ctx, checkpointArgs(m.id, o.Dir)...)
	if err == nil {
		saved.Bytes, err = diskUsage(o.Dir)
	}
	if err == nil && !o.Leave {
		m.askedToEnd(machine.ExitSaved)
		err = m.kill()
	} else {
		err = errors.Join(err, goOn())
	}
	if err != nil {
		return machine.Snapshot{}, fmt.Errorf("save machine: %w", err)
	}
	saved.StoodStill = time.Since(begin) // at most: runsc's own start is in it
	return saved, nil
}

// readyToSave has the sentry run, and the guest stand still if it isn't to run
// again after it is saved. It returns what takes that back.
func (m *gvisorMachine) readyToSave(ctx context.Context, o machine.SaveOptions) (goOn func() error, err error) {
	undo := context.WithoutCancel(ctx)
	switch {
	case m.paused.Load():
		return m.stopSentry, m.runSentry()
	case !o.Leave:
		return func() error { return m.runGuest(undo) }, m.stopGuest(ctx)
	}
	return func() error { return nil }, nil
}

func (m *gvisorMachine) stopSentry() error { return m.signal(sentryName, unix.SIGSTOP) }

func (m *gvisorMachine) runSentry() error { return m.signal(sentryName, unix.SIGCONT) }

// stopGuest and runGuest aren't interrupted: what became of the guest would
// not be known.
func (m *gvisorMachine) stopGuest(ctx context.Context) error { return m.control(ctx, "pause") }

func (m *gvisorMachine) runGuest(ctx context.Context) error { return m.control(ctx, "resume") }

// control has runsc do something short to the machine.
func (m *gvisorMachine) control(ctx context.Context, verb string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s machine: %w", verb, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlPatience)
	defer cancel()
	return m.runsc(ctx, verb, m.id)
}

func (m *gvisorMachine) alive() error {
	if m.Over() {
		return os.ErrProcessDone
	}
	return nil
}

// runsc runs a command about the running machine.
func (m *gvisorMachine) runsc(ctx context.Context, args ...string) error {
	if err := m.alive(); err != nil {
		return fmt.Errorf("runsc %s: %w", args[0], err)
	}
	runtime.LockOSThread() // the command dies with this thread
	defer runtime.UnlockOSThread()
	cmd := m.driver.command(ctx, append([]string{"--root=" + stateDir(m.dir), "--log=/dev/null"}, args...))
	said := process.NewTail(saidBytes)
	cmd.Stderr = said
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("runsc %s: %w", args[0], err)
	if reason, _, _ := strings.Cut(said.String(), "\n"); reason != "" { // what follows is runsc's stack
		err = fmt.Errorf("%w: %s", err, reason)
	}
	return err
}

// restore starts a machine from a saved one, and tells its agent.
func (m *gvisorMachine) restore(ctx context.Context, s machine.Spec, from machine.Snapshot) error {
	if from.Driver != Name {
		return fmt.Errorf("restore: snapshot belongs to driver %q", from.Driver)
	}
	if err := m.start(ctx, s, restoreArgs(s, from.Dir)); err != nil {
		return err
	}
	return m.ring(ctx)
}

// ring returns when the agent has abandoned the link of its earlier life.
func (m *gvisorMachine) ring(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bellPatience)
	defer cancel()
	interrupt := context.AfterFunc(ctx, func() { _ = m.bell.SetDeadline(time.Now()) })
	defer interrupt()
	b := []byte{1}
	_, err := m.bell.Write(b)
	if err == nil {
		_, err = m.bell.Read(b)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("restore: await agent: %w", ctx.Err())
	}
	select {
	case e := <-m.Exited():
		return fmt.Errorf("restore: machine ended: %s", e.Detail)
	case <-ctx.Done():
		return fmt.Errorf("restore: await agent: %w", err)
	}
}

// diskUsage is what the files of a directory take up on the disk.
func diskUsage(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return 0, err
		}
		bytes += allocated(info)
	}
	return bytes, nil
}

// allocated is what a file takes up: holes are free.
func allocated(info os.FileInfo) int64 {
	const block = 512 // stat(2)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * block
	}
	return info.Size()
}

var (
	_ machine.Pauser = (*gvisorMachine)(nil)
	_ machine.Saver  = (*gvisorMachine)(nil)
)
