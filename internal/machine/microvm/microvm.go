// Package microvm is the driver for machines that are virtual machines of
// QEMU's "microvm" kind: a kernel of their own, and next to no devices.
//
// A machine is one QEMU process in a jail (package jail), which dies with the
// thread of the shim that started it. The root is the image's EROFS file,
// below it a chain of files takes what the guest writes. The network card is a
// stream of frames to the gateway; link and bell (see the agent's package
// lives) are two ports of a virtio console. QEMU's monitor is the shim's
// alone.
//
// Everything that QEMU says may be the guest's words.
package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

// Name is the driver's name.
const Name = "microvm"

// The names of the ports between host and agent; the agent has them, too.
const (
	linkPort = "atoll.link"
	bellPort = "atoll.bell"
)

const (
	// What QEMU needs beyond the guest's memory: its own, with firmware and
	// caches, and, without KVM, translated code.
	overheadBytes = 128 << 20
	overheadTCG   = 192 << 20

	// QEMU's threads: one per processor, a few of its own, and up to 64 that
	// wait for disks.
	defaultMaxPIDs = 128

	// uidBase and a process id make a user that no other live machine has.
	uidBase = 0x60000000
)

// Config says what a driver runs.
type Config struct {
	QEMU  string // path of qemu-system-x86_64, below /usr
	Jail  string // path of a program that calls jail.Main when it is called jail.Name
	Accel Acceleration
	Log   *slog.Logger
}

// Driver starts virtual machines. It is safe for concurrent use.
type Driver struct {
	Config
	tsc func() int // measured once
}

// New returns a driver.
func New(c Config) *Driver {
	return &Driver{Config: c, tsc: sync.OnceValue(measureTSC)}
}

// Info describes the driver.
func (d *Driver) Info() machine.Info {
	return machine.Info{Name: Name, Features: machine.Features{Pause: true, Save: true, Share: true}}
}

// Start makes a machine: from the template, if there is one, or by booting.
// What fails with a template is tried without.
func (d *Driver) Start(ctx context.Context, s machine.Spec) (machine.Machine, error) {
	err := d.check(s)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	if s.Template != nil {
		m, err := d.make(ctx, s, func(m *vm) error { return m.startFromTemplate(ctx, s) })
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil || errors.Is(err, errCard) {
			return nil, errors.Join(err, os.RemoveAll(s.Dir))
		}
		d.Log.Warn("the template is of no use; the machine boots", "error", err)
	}
	m, err := d.make(ctx, s, func(m *vm) error { return m.boot(ctx, s) })
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	return m, nil
}

// make runs start on a new machine, and takes back what it did if it fails:
// all but the machine's directory, which it empties.
func (d *Driver) make(ctx context.Context, s machine.Spec, start func(*vm) error) (machine.Machine, error) {
	m := newMachine(d, s.ID, s.Dir)
	err := start(m)
	if err == nil {
		return m, nil
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), process.Patience)
	defer cancel()
	err = errors.Join(err, m.Destroy(cleanup))
	if m.link != nil {
		_ = m.link.Close()
	}
	return nil, errors.Join(err, os.MkdirAll(s.Dir, 0o700))
}

// Restore makes a machine that continues where a saved one stood.
func (d *Driver) Restore(ctx context.Context, s machine.Spec, from machine.Snapshot) (machine.Machine, error) {
	err := d.check(s)
	if err == nil && from.Driver != Name {
		err = fmt.Errorf("restore: the snapshot belongs to driver %q", from.Driver)
	}
	var m machine.Machine
	if err == nil {
		m, err = d.make(ctx, s, func(m *vm) error { return m.restore(ctx, s, from) })
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.Dir))
	}
	return m, nil
}

// Reattach finds what is left of a machine. Control group and directory are
// named by id and path alone.
func (d *Driver) Reattach(_ context.Context, st machine.State) (machine.Machine, error) {
	if st.Driver != Name {
		return nil, fmt.Errorf("reattach: state belongs to driver %q", st.Driver)
	}
	m := newMachine(d, st.ID, st.Dir)
	m.Finish(machine.Exit{Reason: machine.ExitCrashed, Detail: "its shim is gone"})
	return m, nil
}

func (d *Driver) check(s machine.Spec) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("start: microVMs need a host with an x86-64 processor, not %s", runtime.GOARCH)
	}
	if s.AttachNIC == nil {
		return errors.New("start: no network card callback")
	}
	for _, path := range []string{s.Dir, s.Image.File, s.Image.Kernel, s.Image.Modules, s.Agent, d.QEMU, d.Jail} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("start: %q is not an absolute path", path)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	if s.MemoryBytes%chunk != 0 {
		return fmt.Errorf("start: memory of %d bytes is not a multiple of %d", s.MemoryBytes, chunk)
	}
	return nil
}

// limits are those of a machine's control group. Where the guest's memory is
// a view of a memory file that others share, each page that it is the first to
// write to counts twice: the kernel puts a page of zeros into the file, for
// all, before it makes the copy that is written to.
func (d *Driver) limits(s machine.Spec, shared bool) cgroup.Limits {
	overhead := int64(overheadBytes)
	if shared {
		overhead += s.MemoryBytes
	}
	if d.Accel == TCG {
		overhead += overheadTCG
	}
	pids := s.MaxPIDs
	if pids == 0 || pids > defaultMaxPIDs {
		pids = defaultMaxPIDs // the guest's processes are not the host's
	}
	return cgroup.Limits{MemoryBytes: s.MemoryBytes + overhead, CPUs: s.CPUs, PIDs: pids}
}

// saved describes a snapshot, in its directory.
type saved struct {
	Format      int      `json:"format"`
	MemoryBytes int64    `json:"memoryBytes"`
	CPUs        int      `json:"cpus"`
	DiskBytes   int64    `json:"diskBytes"`
	Disks       []string `json:"disks"` // names of the chain's files, in the directory
	Image       string   `json:"image"` // which file the root is, see imageID
	// Once: the machine is gone, and one that is restored takes its files over.
	Once bool `json:"once"`
}

const savedFormat = 1

// The files of a snapshot.
const (
	savedMeta   = "machine.json"
	savedState  = "state"
	savedMemory = "memory"
)

func readSaved(dir string, s machine.Spec) (saved, error) {
	var meta saved
	raw, err := os.ReadFile(filepath.Join(dir, savedMeta))
	if err == nil {
		err = json.Unmarshal(raw, &meta)
	}
	if err != nil {
		return meta, fmt.Errorf("read snapshot: %w", err)
	}
	image, err := imageAt(s.Image.File)
	switch {
	case err != nil:
		return meta, err
	case meta.Format != savedFormat:
		return meta, fmt.Errorf("read snapshot: format %d is not %d", meta.Format, savedFormat)
	case !isChain(meta.Disks):
		return meta, fmt.Errorf("read snapshot: no machine has the disks %.256q", meta.Disks)
	case meta.MemoryBytes != s.MemoryBytes || meta.CPUs != s.CPUs || meta.DiskBytes != s.DiskBytes:
		return meta, errors.New("read snapshot: it is of a machine of another size")
	case meta.Image != image:
		return meta, errors.New("read snapshot: the image was replaced since")
	}
	return meta, nil
}

func (m saved) write(dir string) error {
	m.Format = savedFormat
	raw, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, savedMeta), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// imageAt is imageID of the file that has a name now.
func imageAt(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("find image: %w", err)
	}
	defer func() { _ = file.Close() }()
	return imageID(file)
}

// imageID tells one image file from another that has its name later.
func imageID(file *os.File) (string, error) {
	info, err := file.Stat()
	if err != nil {
		return "", fmt.Errorf("find image: %w", err)
	}
	return fmt.Sprintf("%d bytes of %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano)), nil
}

var (
	_ machine.Driver   = (*Driver)(nil)
	_ machine.Restorer = (*Driver)(nil)
)
