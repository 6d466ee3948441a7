// Package launch is the daemon's side of the shims: it starts them, finds
// running ones again, and frees what dead ones left behind.
//
// A shim is started in a session of its own and is not waited for as a child
// beyond its start: its life is followed through its socket, in the same way
// before and after a restart of the daemon. A Shim's methods may be called
// concurrently.
package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/shim/wire"
)

const (
	dialTimeout    = 5 * time.Second
	cleanupTimeout = 30 * time.Second
	templateWait   = 30 * time.Second // for a template that is being made; then the machine boots
	killTimeout    = 10 * time.Second // for a killed shim to be reaped
)

// shimEnv is all that a shim's environment holds.
var shimEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Binaries are the host paths of the programs that a sandbox needs.
type Binaries struct {
	Shim  string // atoll-shim
	Agent string // atoll-agent, static
	Runsc string // gVisor's runsc, built without cgo
}

// Templates are machines that others start from faster than from nothing.
type Templates interface {
	// Get returns the template for machines like s, and makes it if need be.
	Get(ctx context.Context, s machine.Spec) (*machine.Snapshot, error)
	// Discard forgets a template that no machine could be started from.
	Discard(machine.Snapshot) error
}

// Launcher starts shims below one data directory.
type Launcher struct {
	Binaries     Binaries
	QEMU         string    // path, for microVMs
	Templates    Templates // of microVMs; nil boots every machine
	Data         layout.Data
	Drivers      map[string]machine.Driver // by name, to free what dead shims left
	StartTimeout time.Duration             // until an agent must have answered; 0 is the shim's default
	LogLevel     string                    // of the shims
	Log          *slog.Logger
}

var _ sandbox.Launcher = (*Launcher)(nil)

// Launch starts a shim and returns when its agent has answered. On failure,
// and when ctx ends first, nothing is left.
func (l *Launcher) Launch(ctx context.Context, s sandbox.ShimSpec) (sandbox.Shim, error) {
	spec := l.wireSpec(s)
	spec.Template = l.template(ctx, spec)
	shim, err := l.start(ctx, spec)
	s.Secrets.Drop() // the shim has them, or nobody needs them any more
	if err != nil {
		return nil, err // not a nil *Shim in the interface
	}
	return shim, nil
}

func (l *Launcher) wireSpec(s sandbox.ShimSpec) wire.Spec {
	if s.Driver == microvm.Name {
		s.MemoryBytes = microvm.RoundMemory(s.MemoryBytes)
	}
	return wire.Spec{
		ID: s.ID, Driver: s.Driver, Hostname: s.Hostname,
		Runsc: l.Binaries.Runsc, Agent: l.Binaries.Agent, QEMU: l.QEMU,
		Image: s.Image.File, Kernel: s.Image.Kernel, Modules: s.Image.Modules,
		MemoryBytes: s.MemoryBytes, CPUs: s.CPUs, MaxPIDs: s.MaxPIDs, DiskBytes: s.DiskBytes,
		ExtraRoots: s.ExtraRootsPEM, MaxMessage: s.MaxMessage,
		Personal: personal(s.Personal), Spare: s.Spare, Origin: (*wire.Origin)(s.Origin),
		Gateway: wire.Gateway{
			Exceptions: s.Exceptions, Resolvers: s.Resolvers, OverridesFile: s.HostOverrides,
			Strict: s.Strict, Proxy: string(s.Proxy), AuditFile: l.auditFile(s), AuditMax: s.AuditMaxBytes,
		},
		StartTimeout: l.StartTimeout, LogLevel: l.LogLevel,
	}
}

func personal(p sandbox.Personal) wire.Personal {
	return wire.Personal{Env: p.Env, AllowNet: p.AllowNet, Ceiling: p.Ceiling, Secrets: p.Secrets.Specs()}
}

func (l *Launcher) auditFile(s sandbox.ShimSpec) string {
	if s.AuditMaxBytes <= 0 {
		return ""
	}
	return l.Data.Audit(s.ID)
}

func (l *Launcher) start(ctx context.Context, spec wire.Spec) (*Shim, error) {
	dir := l.Data.Sandbox(spec.ID)
	for _, parent := range []string{l.Data.Sandboxes(), l.Data.Audits()} {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, fmt.Errorf("make sandbox directory: %w", err)
		}
	}
	if err := os.Mkdir(dir.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make sandbox directory: %w", err)
	}
	spec.Dir = dir.Dir
	s, err := l.launch(ctx, spec)
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return nil, errors.Join(err, l.Cleanup(cleanup, spec.ID))
	}
	return s, nil
}

func (l *Launcher) launch(ctx context.Context, spec wire.Spec) (*Shim, error) {
	log, err := os.OpenFile(l.Data.Sandbox(spec.ID).Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open shim log: %w", err)
	}
	defer func() { _ = log.Close() }()
	output, written, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = output.Close() }()
	input, err := pipe(spec)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(l.Binaries.Shim)
	cmd.Args = []string{"atoll-shim", spec.ID}
	cmd.Env = shimEnv // the daemon's may hold what is nobody else's business
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, written, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = dialTimeout
	err = cmd.Start()
	_ = written.Close()
	_ = input.Close()
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	reaped := make(chan struct{})
	go func() { // whenever it ends
		defer close(reaped)
		_ = cmd.Wait()
	}()
	started, err := awaitStarted(ctx, output)
	if started.TemplateFailed && spec.Template != nil {
		l.discard(spec)
	}
	if err != nil {
		return nil, errors.Join(err, endStarting(cmd.Process, reaped))
	}
	return l.attach(ctx, spec.ID)
}

// template returns what a machine starts from; nil if it is to boot. A fork
// continues from its parent.
func (l *Launcher) template(ctx context.Context, spec wire.Spec) *machine.Snapshot {
	if l.Templates == nil || spec.Driver != microvm.Name || spec.Origin != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, templateWait)
	defer cancel()
	t, err := l.Templates.Get(ctx, machine.Spec{
		Image: machine.Image{File: spec.Image, Kernel: spec.Kernel, Modules: spec.Modules}, Agent: spec.Agent,
		MemoryBytes: spec.MemoryBytes, CPUs: spec.CPUs, DiskBytes: spec.DiskBytes, Network: wire.Network(),
	})
	if err != nil {
		l.Log.Warn("there is no template; the machine boots", "sandbox_id", spec.ID, "error", err)
		return nil
	}
	return t
}

func (l *Launcher) discard(spec wire.Spec) {
	l.Log.Warn("a machine could not be started from its template, which is made anew", "sandbox_id", spec.ID, "template", spec.Template.Dir)
	if err := l.Templates.Discard(*spec.Template); err != nil {
		l.Log.Warn("discard a template", "template", spec.Template.Dir, "error", err)
	}
}

// pipe returns the reading end of a pipe that carries one line and then ends.
// The line may hold secrets: nothing of it is kept once it is written, or once
// nobody reads it any more.
func pipe(v any) (*os.File, error) {
	line, err := wire.Encode(v)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		clear(line)
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	go func() {
		_, _ = w.Write(line) // a shim that doesn't read it says so itself
		clear(line)
		_ = w.Close()
	}()
	return r, nil
}

// endStarting kills a shim that may not have written its state yet, and waits
// for its end: it must not make anything more while its directory is removed.
// Its machine dies with it.
func endStarting(shim *os.Process, reaped <-chan struct{}) error {
	_ = shim.Kill()
	select {
	case <-reaped:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("kill shim: process %d does not end", shim.Pid)
	}
}

// awaitStarted reads the shim's one line of answer.
func awaitStarted(ctx context.Context, output *os.File) (wire.Started, error) {
	interrupt := context.AfterFunc(ctx, func() { _ = output.SetReadDeadline(time.Now()) })
	defer interrupt()
	var started wire.Started
	err := wire.Read(bufio.NewReader(output), &started)
	switch {
	case ctx.Err() != nil:
		return started, fmt.Errorf("await shim: %w", ctx.Err())
	case err != nil:
		return started, fmt.Errorf("await shim: %w", err)
	case started.Error != "":
		return started, fmt.Errorf("shim: %s", started.Error)
	}
	return started, nil
}

// Attach finds a running shim. errs.NotFound when there is none; the error's
// message is then the stop reason that the shim wrote down, or "crashed".
func (l *Launcher) Attach(ctx context.Context, id string) (sandbox.Shim, error) {
	shim, err := l.attach(ctx, id)
	if err != nil {
		return nil, err
	}
	return shim, nil
}

func (l *Launcher) attach(ctx context.Context, id string) (*Shim, error) {
	s := &Shim{launcher: l, id: id, socket: l.Data.Sandbox(id).Socket(), exited: make(chan sandbox.ShimExit, 1), ended: make(chan struct{})}
	conn, in, reply, err := s.request(ctx, wire.Request{Op: wire.OpWatch})
	if err != nil {
		if exit := l.recordedExit(id); exit != nil {
			return nil, errs.Wrap(err, errs.NotFound, sandbox.CodeShimEnded, "%s", exit.Reason)
		}
		if !nobodyThere(err) {
			return nil, fmt.Errorf("attach to shim: %w", err)
		}
		return nil, errs.Wrap(err, errs.NotFound, "SHIM_GONE", "%s", api.StopCrashed)
	}
	s.pid = reply.Status.PID
	go s.watch(conn, in)
	return s, nil
}

// nobodyThere tells a shim that has ended from one that could not be asked.
func nobodyThere(err error) bool {
	for _, gone := range []error{unix.ENOENT, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// recordedExit is what an ended shim wrote down.
func (l *Launcher) recordedExit(id string) *wire.Exit {
	status, err := readStatus(l.Data.Sandbox(id))
	if err != nil {
		return nil
	}
	return status.Exit
}

func readStatus(dir layout.Sandbox) (wire.Status, error) {
	var status wire.Status
	raw, err := os.ReadFile(dir.State())
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		return status, fmt.Errorf("decode shim state: %w", err)
	}
	return status, nil
}

// Leftovers lists the ids of all sandboxes that have a directory.
func (l *Launcher) Leftovers(context.Context) ([]string, error) {
	entries, err := os.ReadDir(l.Data.Sandboxes())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sandbox directories: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Cleanup ends a shim that still runs and frees all that it left: processes,
// control groups, files. It is idempotent.
func (l *Launcher) Cleanup(ctx context.Context, id string) error {
	dir := l.Data.Sandbox(id)
	status, err := readStatus(dir)
	if err == nil {
		if err := l.endShim(ctx, status.PID, id); err != nil {
			return err
		}
		if err := l.destroy(ctx, status.Machine); err != nil {
			return err
		}
	}
	if err := cgroup.Open(cgroup.ShimName(id)).Remove(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(dir.Dir); err != nil {
		return fmt.Errorf("remove sandbox directory: %w", err)
	}
	return nil
}

func (l *Launcher) destroy(ctx context.Context, st machine.State) error {
	driver, ok := l.Drivers[st.Driver]
	if !ok {
		return fmt.Errorf("free machine: no driver %q", st.Driver)
	}
	m, err := driver.Reattach(ctx, st)
	if err != nil {
		return fmt.Errorf("free machine: %w", err)
	}
	if err := m.Destroy(ctx); err != nil {
		return fmt.Errorf("free machine: %w", err)
	}
	return nil
}

// endShim kills the shim's process if it is still that process: its command
// line names the sandbox, so a reused pid is never touched.
func (l *Launcher) endShim(ctx context.Context, pid int, id string) error {
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer func() { _ = unix.Close(fd) }()
	if !isShim(pid, id) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return nil // gone meanwhile
	}
	return awaitExit(ctx, fd, pid)
}

func isShim(pid int, id string) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && strings.TrimRight(string(raw), "\x00") == "atoll-shim\x00"+id
}

func awaitExit(ctx context.Context, pidfd, pid int) error {
	deadline := time.Now().Add(killTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("kill shim: process %d does not end", pid)
		}
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return nil
		}
	}
}
