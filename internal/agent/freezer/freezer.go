// Package freezer stops all processes of a machine but the agent, and lets
// them go on: what several machines continue from must not run in any of them
// before the agent has told it who it is.
//
// It needs a kernel of the machine's own, with control groups of version 2
// (https://docs.kernel.org/admin-guide/cgroup-v2.html). The root of the groups
// can't be frozen, so what the agent starts is born in a group below it. Other
// groups are the guest's, a container runtime's say, and are frozen with all
// that is below them. One that the guest has frozen itself stays so. A process
// that the guest's root has moved to the root of the groups goes on.
//
// Nothing is born while processes are stopped: the agent would wait, with its
// only thread, for a child that is frozen before it has executed its program.
package freezer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long processes may take to stop. What has not stopped by
	// then is in the kernel, in a wait that nothing interrupts, and stops
	// before it executes an instruction of its own.
	patience = 2 * time.Second
	interval = 200 * time.Microsecond

	// maxEntries bounds the entries of the root of the groups, of which some
	// thirty are the kernel's.
	maxEntries = 1024

	// The groups in which processes are born: a number follows if the guest
	// has taken the name, or made the group of no use.
	groupName = "sandbox"
	maxNames  = 64
)

// Freezer stops and continues processes. Its methods may be called
// concurrently, after Open.
type Freezer struct {
	root *os.File // of the groups
	own  string   // says in which group this process is
	log  *slog.Logger

	births sync.RWMutex // read-held while a process is born; write-held while they are stopped, and while group changes
	group  *os.File     // where they are born

	mu     sync.Mutex // guards the following
	frozen bool       // births is held
	groups map[string]*group
}

// group is a group that was found while processes are stopped.
type group struct {
	freeze *os.File // its file; nil if the guest has frozen it
}

// Open makes the group for processes, below the root of the groups at dir. It
// uses a mount of its own: the guest may do with the one at dir what it likes.
func (f *Freezer) Open(dir string, log *slog.Logger) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open control groups: %w", err)
	}
	return f.start(os.NewFile(uintptr(fd), dir), log)
}

func (f *Freezer) start(root *os.File, log *slog.Logger) (err error) {
	f.root, f.own, f.log, f.groups = root, "/proc/self/cgroup", log, map[string]*group{}
	f.group, err = f.makeGroup()
	return err
}

// makeGroup makes a group that was not there before.
func (f *Freezer) makeGroup() (*os.File, error) {
	for n := range maxNames {
		name := groupName
		if n > 0 {
			name = fmt.Sprintf("%s-%d", groupName, n+1)
		}
		err := unix.Mkdirat(int(f.root.Fd()), name, 0o755)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		return f.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	return nil, errors.New("make control group: the guest has taken all names")
}

// open opens a file below the root of the groups, and nothing elsewhere.
func (f *Freezer) open(name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(f.root.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open control group %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Birth has start give birth to a process in the group with that descriptor,
// as soon as processes may run. It does so a second time, with another group,
// if that one is gone, or can't hold processes any more: the guest's root may
// do that to it.
func (f *Freezer) Birth(start func(group int) error) error {
	used, err := f.birth(start)
	if !unusable(err) {
		return err
	}
	if err := f.replace(used); err != nil {
		return err
	}
	_, err = f.birth(start)
	return err
}

func (f *Freezer) birth(start func(group int) error) (used *os.File, err error) {
	f.births.RLock()
	defer f.births.RUnlock()
	return f.group, start(int(f.group.Fd()))
}

// unusable reports whether the kernel refused a birth because of the group: it
// is removed, it hands controllers on to groups below it, or it can hold
// threads only.
func unusable(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP)
}

func (f *Freezer) replace(used *os.File) error {
	f.births.Lock()
	defer f.births.Unlock()
	if f.group != used {
		return nil // somebody else has
	}
	next, err := f.makeGroup()
	if err != nil {
		return err
	}
	f.log.Warn("the control group for processes is of no use any more", "group", used.Name(), "next", next.Name())
	_ = used.Close()
	f.group = next
	return nil
}

// Freeze stops all processes in all groups. It is idempotent. When it fails,
// some may have stopped.
func (f *Freezer) Freeze() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.frozen {
		f.births.Lock()
		f.frozen = true
	}
	if err := f.leave(); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		// What still ran may have made another group, and moved to it.
		found, err := f.freezeAll()
		if err != nil || found == 0 {
			return err
		}
		if err := f.await(deadline); err != nil {
			return err
		}
	}
}

// leave moves this process to the root of the groups, where it belongs: there
// are programs that move everything elsewhere.
func (f *Freezer) leave() error {
	own, err := os.ReadFile(f.own)
	if err != nil {
		return fmt.Errorf("find own control group: %w", err)
	}
	for line := range strings.Lines(string(own)) {
		if strings.TrimSpace(line) == "0::/" {
			return nil
		}
	}
	procs, err := f.open("cgroup.procs", unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { _ = procs.Close() }()
	if _, err := procs.WriteString("0"); err != nil {
		return fmt.Errorf("leave control group: %w", err)
	}
	return nil
}

// freezeAll freezes the groups that it has not seen yet, and returns how many.
func (f *Freezer) freezeAll() (found int, err error) {
	names, err := f.names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if f.groups[name] != nil {
			continue
		}
		g, err := f.freeze(name)
		if gone(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		f.groups[name] = g
		found++
	}
	return found, nil
}

// names are those of the groups right below the root.
func (f *Freezer) names() (names []string, err error) {
	root, err := f.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	entries, err := root.ReadDir(maxEntries)
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	if len(entries) == maxEntries {
		return nil, errors.New("list control groups: there are too many")
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// gone reports whether a group was removed.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func (f *Freezer) freeze(name string) (*group, error) {
	file, err := f.open(filepath.Join(name, "cgroup.freeze"), unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	var state [1]byte
	_, err = file.ReadAt(state[:], 0)
	if err == nil && state[0] == '1' {
		return &group{}, file.Close()
	}
	if err == nil {
		_, err = file.WriteAt([]byte("1"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("freeze control group %s: %w", name, err), file.Close())
	}
	return &group{freeze: file}, nil
}

// await returns when all processes have stopped, or should have.
func (f *Freezer) await(deadline time.Time) error {
	for name, g := range f.groups {
		for g.freeze != nil {
			stopped, err := f.stopped(name)
			if stopped || gone(err) {
				break
			}
			if err != nil {
				return err
			}
			if time.Now().After(deadline) {
				f.log.Warn("processes don't stop in time", "group", name)
				break
			}
			time.Sleep(interval)
		}
	}
	return nil
}

func (f *Freezer) stopped(name string) (bool, error) {
	file, err := f.open(filepath.Join(name, "cgroup.events"), unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	var events [256]byte // there are two, each a word and a digit
	n, err := file.Read(events[:])
	if err != nil {
		return false, fmt.Errorf("read events of control group %s: %w", name, err)
	}
	return strings.Contains("\n"+string(events[:n]), "\nfrozen 1\n"), nil
}

// Thaw lets the processes go on that Freeze stopped. It is idempotent.
func (f *Freezer) Thaw() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.frozen {
		return nil
	}
	var failed error
	for name, g := range f.groups {
		if err := g.thaw(); err != nil && !gone(err) {
			failed = errors.Join(failed, fmt.Errorf("thaw control group %s: %w", name, err))
		}
	}
	clear(f.groups)
	f.frozen = false
	f.births.Unlock()
	return failed
}

func (g *group) thaw() error {
	if g.freeze == nil {
		return nil
	}
	_, err := g.freeze.WriteAt([]byte("0"), 0)
	return errors.Join(err, g.freeze.Close())
}
