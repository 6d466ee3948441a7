package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

// stateFile is where QEMU writes the state of processors and devices, in the
// work directory: every time, so that one that was taken over has no more than
// one such file to fill.
const stateFile = "state"

// maxState bounds that state, in bytes. For two processors it takes 20 KB.
const maxState = 4 << 20

var errGone = errors.New("the machine has ended")

// over reports whether the machine has ended, or does not run in this process.
func (m *vm) over() bool { return m.Over() || m.monitor == nil }

// Pause stops the guest's processors, and then QEMU itself: one that was taken
// over would run on.
func (m *vm) Pause(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	defer m.stun()
	return m.halt(ctx)
}

// stun stops QEMU if its guest stands still. It answers nothing until it is
// awakened.
func (m *vm) stun() {
	if m.still {
		m.Signal(unix.SIGSTOP)
	}
}

func (m *vm) awaken() {
	if m.still {
		m.Signal(unix.SIGCONT)
	}
}

// Resume lets the guest go on.
func (m *vm) Resume(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	m.awaken()
	return m.goOn(ctx)
}

func (m *vm) halt(ctx context.Context) error {
	if m.over() {
		return errGone
	}
	if m.still && !m.unsure {
		return nil
	}
	if err := m.monitor.run(ctx, "stop", nil, nil); err != nil {
		undone := m.surely(ctx, "cont", nil, nil) // it may be carried out yet
		m.still, m.unsure = false, undone != nil
		return errors.Join(err, undone)
	}
	m.still, m.unsure = true, false
	return nil
}

func (m *vm) goOn(ctx context.Context) error {
	if m.over() {
		return errGone
	}
	if !m.still && !m.unsure {
		return nil
	}
	if err := m.monitor.run(ctx, "cont", nil, nil); err != nil {
		m.unsure = true // it may be carried out yet
		return err
	}
	m.still, m.unsure = false, false
	return nil
}

// Save writes the machine's state. Its disk so far is shared with the
// snapshot: a machine that goes on writes to a new file on top of it.
func (m *vm) Save(ctx context.Context, o machine.SaveOptions) (snapshot machine.Snapshot, err error) {
	m.power.Lock()
	defer m.power.Unlock()
	if m.over() {
		return snapshot, errGone
	}
	if m.lost != nil {
		return snapshot, fmt.Errorf("save machine: it is not known where its disk is: %w", m.lost)
	}
	m.awaken()
	defer m.stun()
	s := saving{vm: m, SaveOptions: o, snapshot: machine.Snapshot{Driver: Name, Dir: o.Dir}}
	if err := s.run(ctx); err != nil {
		return machine.Snapshot{}, fmt.Errorf("save machine: %w", err)
	}
	return s.snapshot, nil
}

// saving is one call of Save.
type saving struct {
	*vm
	machine.SaveOptions
	snapshot machine.Snapshot
	memory   *os.File // where the guest's memory is copied to
	copier   *copier
	top      string // the file that the machine writes to when it goes on
}

func (s *saving) run(ctx context.Context) (err error) {
	defer func() {
		if s.copier != nil {
			s.copier.close()
		}
		if s.memory != nil && (err != nil || !s.Leave) {
			err = errors.Join(err, s.memory.Close())
		}
	}()
	paused := s.still
	if err := s.prepare(ctx); err != nil {
		return err
	}
	err = s.freeze(ctx)
	began := time.Now()
	if err == nil {
		err = s.halt(ctx)
	}
	if err == nil {
		err = s.write(ctx)
	}
	if err == nil && !s.Leave {
		err = s.leave()
	} else {
		err = errors.Join(err, s.asBefore(ctx, paused))
	}
	s.snapshot.StoodStill = time.Since(began)
	if err == nil {
		err = s.complete()
	}
	return err
}

// freeze stops the guest's processes. Only an agent that runs can do that.
func (s *saving) freeze(ctx context.Context) error {
	if s.Freeze == nil {
		return nil
	}
	if err := s.goOn(ctx); err != nil {
		return err
	}
	return s.Freeze(ctx)
}

// asBefore lets the machine run, or stand still. It does so also when ctx has
// ended: nobody else would.
func (s *saving) asBefore(ctx context.Context, paused bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), process.Patience)
	defer cancel()
	if paused {
		return s.halt(ctx)
	}
	return s.goOn(ctx)
}

// prepare makes what can be made while the machine runs.
func (s *saving) prepare(ctx context.Context) (err error) {
	if s.Leave {
		if err := s.boundChain(ctx); err != nil {
			return err
		}
		s.top = diskName(s.disks)
		if err := s.makeTop(ctx, s.top); err != nil {
			return err
		}
		if s.memory, err = newMemory(s.spec.MemoryBytes); err != nil {
			return err
		}
	} else {
		s.memory, err = os.OpenFile(filepath.Join(s.Dir, savedMemory), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := s.memory.Truncate(s.spec.MemoryBytes); err != nil {
			return err
		}
	}
	s.copier, err = newCopier(s.memory, s.PID(), s.vm.memory, s.spec.MemoryBytes, !s.shared)
	if err == nil && s.Leave && !s.still {
		err = s.copier.copyAhead(ctx)
	}
	return err
}

// write writes what a machine is that stands still.
func (s *saving) write(ctx context.Context) error {
	disks := s.disks
	if err := s.saveState(ctx, s.Dir); err != nil {
		return err
	}
	if s.Leave {
		if err := s.addTop(ctx, s.top); err != nil {
			return err
		}
	}
	if err := linkAll(s.Dir, workDir(s.dir), disks); err != nil {
		return err
	}
	image, err := imageID(s.image)
	if err != nil {
		return err
	}
	meta := saved{
		MemoryBytes: s.spec.MemoryBytes, CPUs: s.spec.CPUs, DiskBytes: s.spec.DiskBytes,
		Disks: disks, Image: image, Once: !s.Leave,
	}
	if err := meta.write(s.Dir); err != nil {
		return err
	}
	return s.copier.copyAll(ctx)
}

// complete makes the copy of the memory what others can use.
func (s *saving) complete() error {
	if !s.Leave {
		s.snapshot.Bytes = s.copier.written.Load()
		return nil
	}
	s.snapshot.Close = s.memory.Close
	err := seal(s.memory)
	if err == nil {
		s.snapshot.Memory, s.snapshot.MemoryID, err = share(s.memory)
	}
	return err
}

// leave ends a machine that was saved.
func (m *vm) leave() error {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	return m.kill()
}

// saveState has QEMU write the state of processors and devices. The command
// was made for Xen, whose memory is not QEMU's to save; ours isn't, either.
func (m *vm) saveState(ctx context.Context, dir string) error {
	if err := m.makeFile(stateFile); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	arguments := map[string]any{"filename": jailWork + "/" + stateFile, "live": false}
	if err := m.monitor.run(ctx, "xen-save-devices-state", arguments, nil); err != nil {
		return err
	}
	if err := keepState(filepath.Join(dir, savedState), m.work(stateFile)); err != nil {
		return fmt.Errorf("keep state: %w", err)
	}
	return nil
}

// keepState copies what QEMU wrote to a file that it can't change any more,
// and empties its own.
func keepState(to, from string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	state, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err = errors.Join(err, os.Truncate(from, 0)); err != nil {
		return err
	}
	if len(state) > maxState {
		return fmt.Errorf("it has more than %d bytes", maxState)
	}
	return os.WriteFile(to, state, 0o600)
}

// makeFile makes an empty file that QEMU can write to. QEMU can't change the
// directory, so that the file is what it seems.
func (m *vm) makeFile(name string) error {
	file, err := os.OpenFile(m.work(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), give(m.work(name), m.uid))
}

// makeTop makes a file for the disk's chain.
func (m *vm) makeTop(ctx context.Context, name string) error {
	_ = os.Remove(m.work(name)) // of an earlier attempt
	if err := makeOverlay(ctx, m.work(name), m.spec.DiskBytes); err != nil {
		return err
	}
	return give(m.work(name), m.uid)
}

// addTop has QEMU write to a new file from now on. What it wrote to so far is
// nobody's to write to any more.
func (m *vm) addTop(ctx context.Context, name string) error {
	n := len(m.disks)
	node, below := nodeName(name), nodeName(m.disks[n-1])
	type object = map[string]any
	for _, step := range []struct {
		command   string
		arguments object
	}{
		{"blockdev-add", object{
			"driver": "file", "node-name": node + "-file", "filename": jailWork + "/" + name,
			"locking": "off", "discard": "unmap", "cache": object{"no-flush": true},
		}},
		{"blockdev-add", object{
			"driver": "qcow2", "node-name": node, "file": node + "-file", "backing": nil,
			"discard": "unmap", "cache": object{"no-flush": true},
		}},
		{"blockdev-snapshot", object{"node": below, "overlay": node}},
	} {
		if err := m.surely(ctx, step.command, step.arguments, nil); err != nil {
			if _, refused := errors.AsType[refusal](err); !refused && step.command == "blockdev-snapshot" {
				m.lost = err
			}
			_ = m.forget(ctx, node) // as far as it is there; the next attempt has the same name
			_ = m.forget(ctx, node+"-file")
			return err
		}
	}
	old := m.work(m.disks[n-1])
	m.disks = append(m.disks[:n:n], name)
	if err := errors.Join(os.Chown(old, 0, 0), os.Chmod(old, 0o444)); err != nil {
		return fmt.Errorf("share disk: %w", err)
	}
	return nil
}
