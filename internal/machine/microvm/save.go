package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/atollhq/atoll/internal/machine"
)

// stateFile is where QEMU writes the state of processors and devices, in the
// work directory.
const stateFile = "state"

var errGone = errors.New("the machine has ended")

// over reports whether the machine has ended, or does not run in this process.
func (m *vm) over() bool {
	select {
	case <-m.done:
		return true
	default:
		return m.monitor == nil
	}
}

// Pause stops the guest's processors.
func (m *vm) Pause(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.halt(ctx)
}

// Resume lets the guest go on.
func (m *vm) Resume(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.goOn(ctx)
}

func (m *vm) halt(ctx context.Context) error {
	if m.over() {
		return errGone
	}
	if m.still {
		return nil
	}
	if err := m.monitor.run(ctx, "stop", nil, nil); err != nil {
		return err
	}
	m.still = true
	return nil
}

func (m *vm) goOn(ctx context.Context) error {
	if m.over() {
		return errGone
	}
	if !m.still {
		return nil
	}
	if err := m.monitor.run(ctx, "cont", nil, nil); err != nil {
		return err
	}
	m.still = false
	return nil
}

// Save writes the machine's state. Its disk so far is shared with the
// snapshot: a machine that goes on writes to a new file on top of it.
func (m *vm) Save(ctx context.Context, o machine.SaveOptions) (machine.Snapshot, error) {
	m.power.Lock()
	defer m.power.Unlock()
	if m.over() {
		return machine.Snapshot{}, errGone
	}
	top := ""
	if o.Leave {
		top = diskName(m.disks)
		if err := m.makeTop(ctx, top); err != nil {
			return machine.Snapshot{}, fmt.Errorf("save machine: %w", err)
		}
	}
	paused, began := m.still, time.Now()
	err := m.halt(ctx)
	var snapshot machine.Snapshot
	if err == nil {
		snapshot, err = m.save(ctx, o, top)
	}
	if err == nil && !o.Leave {
		err = m.leave()
	} else if !paused {
		// Also when ctx has ended: nobody else would.
		goOn, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyPatience)
		defer cancel()
		err = errors.Join(err, m.goOn(goOn))
	}
	snapshot.StoodStill = time.Since(began)
	if err != nil {
		if snapshot.Close != nil {
			err = errors.Join(err, snapshot.Close())
		}
		return machine.Snapshot{}, fmt.Errorf("save machine: %w", err)
	}
	return snapshot, nil
}

// leave ends a machine that was saved.
func (m *vm) leave() error {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	return m.kill()
}

// save writes what a machine is that stands still.
func (m *vm) save(ctx context.Context, o machine.SaveOptions, top string) (snapshot machine.Snapshot, err error) {
	snapshot = machine.Snapshot{Driver: Name, Dir: o.Dir}
	image, err := imageID(m.spec.Image.File)
	if err != nil {
		return snapshot, err
	}
	meta := saved{
		MemoryBytes: m.spec.MemoryBytes, CPUs: m.spec.CPUs, DiskBytes: m.spec.DiskBytes,
		Disks: m.disks, Image: image, Once: !o.Leave,
	}
	if err := m.saveState(ctx, o.Dir); err != nil {
		return snapshot, err
	}
	if o.Leave {
		if err := m.addTop(ctx, top); err != nil {
			return snapshot, err
		}
	}
	if err := linkAll(o.Dir, workDir(m.dir), meta.Disks); err != nil {
		return snapshot, err
	}
	if err := m.saveMemory(&snapshot, o); err != nil {
		return snapshot, err
	}
	return snapshot, meta.write(o.Dir)
}

// saveState has QEMU write the state of processors and devices. The command
// was made for Xen, whose memory is not QEMU's to save; ours isn't, either.
func (m *vm) saveState(ctx context.Context, dir string) error {
	if err := m.makeFile(stateFile); err != nil {
		return err
	}
	arguments := map[string]any{"filename": jailWork + "/" + stateFile, "live": false}
	if err := m.monitor.run(ctx, "xen-save-devices-state", arguments, nil); err != nil {
		return errors.Join(err, os.Remove(m.work(stateFile)))
	}
	if err := os.Rename(m.work(stateFile), filepath.Join(dir, savedState)); err != nil {
		return errors.Join(fmt.Errorf("keep state: %w", err), os.Remove(m.work(stateFile)))
	}
	return nil
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
	node, below := nodeName(n), nodeName(n-1)
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
		if err := m.monitor.run(ctx, step.command, step.arguments, nil); err != nil {
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

// saveMemory keeps the memory: where other machines can share it, or on disk.
func (m *vm) saveMemory(snapshot *machine.Snapshot, o machine.SaveOptions) error {
	if !o.Leave {
		file, err := os.OpenFile(filepath.Join(o.Dir, savedMemory), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("save memory: %w", err)
		}
		defer func() { _ = file.Close() }()
		if err := file.Truncate(m.spec.MemoryBytes); err != nil {
			return fmt.Errorf("save memory: %w", err)
		}
		snapshot.Bytes, err = m.copyMemory(file)
		return err
	}
	memory, err := newMemory(m.spec.MemoryBytes)
	if err != nil {
		return err
	}
	snapshot.Memory, snapshot.Close = descriptorPath(memory), memory.Close
	if _, err := m.copyMemory(memory); err != nil {
		return err
	}
	return seal(memory)
}

func (m *vm) copyMemory(to *os.File) (int64, error) {
	return copyMemory(to, m.process.Pid, m.memory, !m.shared)
}
