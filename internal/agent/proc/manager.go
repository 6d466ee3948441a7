package proc

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"golang.org/x/sys/unix"
)

const (
	rememberFor = 10 * time.Minute // how long an ended process can be waited for
	maxEnded    = 10_000           // and how many of them
)

// Config says as whom and with what environment processes run.
type Config struct {
	UID, GID uint32
	User     string
	Home     string            // also the default working directory
	Env      map[string]string // added to the initial environment
	Group    Group             // nil: processes are born in the agent's own control group
	Log      *slog.Logger
}

// Group is the control group that processes are born in.
type Group interface {
	// Birth calls start with the group's descriptor, perhaps after a while,
	// and again if the group was the reason that it failed.
	Birth(start func(group int) error) error
}

// Manager starts the sandbox's processes and knows them by number. Its
// methods may be called concurrently.
type Manager struct {
	cfg    Config
	cred   *syscall.Credential
	env    *Env
	reaper *reaper
	stop   context.CancelFunc

	devNull func() (*os.File, error) // opened once, shared by all children

	mu    sync.Mutex
	known map[int]*Process
	ended []*Process // oldest first, as far as still known
}

// NewManager returns a manager without processes. In a process that is PID 1
// it reaps every child from now on, whoever started it.
func NewManager(cfg Config) *Manager { return newManager(cfg, isInit()) }

func newManager(cfg Config, orphans bool) *Manager {
	ctx, stop := context.WithCancel(context.Background())
	m := &Manager{
		cfg:    cfg,
		cred:   credential(cfg, GroupFile),
		env:    newEnv(cfg),
		reaper: newReaper(orphans),
		stop:   stop,
		known:  map[int]*Process{},
		devNull: sync.OnceValues(func() (*os.File, error) {
			return os.OpenFile("/dev/null", os.O_RDWR, 0)
		}),
	}
	if orphans {
		go m.reaper.run(ctx)
	}
	return m
}

// Env is the sandbox's environment.
func (m *Manager) Env() *Env { return m.env }

// Spec describes a process to start.
type Spec struct {
	Path       string   // a path, or a name looked up in PATH
	Args       []string // without the name itself
	Options    api.ProcessOptions
	ExtraEnv   map[string]string // wins over Options.Env
	ExtraFiles []*os.File        // become descriptors 3, 4, …; stay the caller's to close
}

// Start runs a process as the sandbox's user, with its stdio streams on c. It
// goes on when c ends.
func (m *Manager) Start(_ context.Context, c *rpc.Conn, spec Spec) (*Process, error) {
	p, err := m.start(c, spec)
	if err != nil && spec.Options.StdinStreamID != nil {
		_ = c.InStream(*spec.Options.StdinStreamID).Close() // nobody will read it
	}
	return p, err
}

func (m *Manager) start(c *rpc.Conn, spec Spec) (*Process, error) {
	vars, err := m.variables(spec)
	if err != nil {
		return nil, err
	}
	cwd := m.cwd(spec.Options.Cwd)
	path, err := lookup(spec.Path, m.searchPath(vars), cwd)
	if err != nil {
		return nil, err
	}
	io, err := m.openStdio(spec.Options)
	if err != nil {
		return nil, err
	}
	defer io.closeChildEnds()
	p := &Process{m: m, conn: c, gate: make(chan struct{}), done: make(chan struct{})}
	attr := m.attributes(listOf(vars), cwd, io, spec.ExtraFiles)
	argv := append([]string{spec.Path}, spec.Args...)
	fork := func() (int, error) {
		pid, err := syscall.ForkExec(path, argv, attr)
		if err == nil {
			p.pid = pid
			m.remember(p)
		}
		return pid, err
	}
	err = m.birth(attr.Sys, func() error {
		_, err := m.reaper.start(fork, func(_ int, ws unix.WaitStatus) { m.exited(p, ws) })
		return err
	})
	if err != nil {
		io.closeOwnEnds()
		return nil, explain(err, spec.Path, cwd)
	}
	p.attach(io, spec.Options.StdinStreamID)
	return p, nil
}

// birth has start start a process with these attributes.
func (m *Manager) birth(attr *syscall.SysProcAttr, start func() error) error {
	if m.cfg.Group == nil {
		return start()
	}
	return m.cfg.Group.Birth(func(group int) error {
		attr.UseCgroupFD, attr.CgroupFD = true, group
		return start()
	})
}

// Find returns a process by its number, also when it ended in the last ten
// minutes. Otherwise the error is the one that the SDKs take for "already
// exited".
func (m *Manager) Find(pid int) (*Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.known[pid]; p != nil {
		return p, nil
	}
	return nil, errGone(pid)
}

// Close ends every process that was started here and its group.
func (m *Manager) Close(ctx context.Context) {
	m.mu.Lock()
	running := slices.Collect(maps.Values(m.known))
	m.mu.Unlock()
	for _, p := range running {
		_ = p.Signal("SIGKILL")
	}
	for _, p := range running {
		_, _ = p.Wait(ctx)
	}
	m.stop()
}

// MarkOOM notes that a process is about to be ended because memory ran out:
// that process, or the nearest ancestor that was started here.
func (m *Manager) MarkOOM(pid int) {
	confidence := oomHigh
	for range maxAncestors {
		if p, err := m.Find(pid); err == nil {
			p.oom.CompareAndSwap(nil, &confidence)
			return
		}
		confidence = oomLow
		if pid = parentOf(pid); pid <= 1 {
			return
		}
	}
}

func (m *Manager) exited(p *Process, ws unix.WaitStatus) {
	p.exited(ws)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = append(m.ended, p)
	m.forgetOld()
}

// remember makes a process known. An ended one with the same number is
// forgotten.
func (m *Manager) remember(p *Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[p.pid] = p
	m.forgetOld()
}

// forgetOld forgets processes that ended long ago. The lock is held.
func (m *Manager) forgetOld() {
	n := 0
	for n < len(m.ended) && (len(m.ended)-n > maxEnded || time.Since(m.ended[n].ended) > rememberFor) {
		if p := m.ended[n]; m.known[p.pid] == p {
			delete(m.known, p.pid)
		}
		m.ended[n] = nil
		n++
	}
	m.ended = m.ended[n:]
}

// variables is the environment of a process to start.
func (m *Manager) variables(spec Spec) (map[string]string, error) {
	vars := map[string]string{}
	if clearEnv := spec.Options.ClearEnv; clearEnv == nil || !*clearEnv {
		vars = m.env.All()
	}
	for k, v := range spec.Options.Env {
		if err := checkVariable(k, v); err != nil {
			return nil, err
		}
		vars[k] = v
	}
	maps.Copy(vars, spec.ExtraEnv)
	return vars, nil
}

// searchPath is where a command is looked for: the child's own PATH, or the
// sandbox's when it has none.
func (m *Manager) searchPath(vars map[string]string) string {
	if path, ok := vars["PATH"]; ok {
		return path
	}
	if path, ok := m.env.Get("PATH"); ok {
		return path
	}
	return DefaultPath
}

func (m *Manager) cwd(asked *string) string {
	switch {
	case asked == nil || *asked == "":
		return m.cfg.Home
	case filepath.IsAbs(*asked):
		return *asked
	default:
		return filepath.Join(m.cfg.Home, *asked)
	}
}

func (m *Manager) attributes(env []string, cwd string, io *stdio, extra []*os.File) *syscall.ProcAttr {
	files := []uintptr{io.stdin.child.Fd(), io.stdout.child.Fd(), io.stderr.child.Fd()}
	for _, f := range extra {
		files = append(files, f.Fd())
	}
	return &syscall.ProcAttr{
		Dir:   cwd,
		Env:   env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: m.cred},
	}
}
