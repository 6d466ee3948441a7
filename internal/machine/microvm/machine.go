package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm/jail"
	"github.com/atollhq/atoll/internal/machine/process"
)

const (
	stopPatience = 4 * time.Second  // between the polite and the hard end
	bellPatience = 20 * time.Second // for a restored agent to let go of its old link
	loadPoll     = time.Millisecond // between questions whether a state is loaded
)

// What is said on the bell; see the agent's package lives.
const (
	bellRestored = 1
	bellEnd      = 2
)

// errCard is why a start failed that no other way of starting would mend.
var errCard = errors.New("attach network card")

// vm is one machine. The process is waited for by one goroutine, run, which
// alone calls Finish while it runs.
type vm struct {
	driver *Driver
	id     string
	dir    string
	group  *cgroup.Group

	*process.Process

	// Set before start returns; nil after Reattach.
	spec    machine.Spec
	control *os.File // held open while QEMU lives
	uid     int
	image   *os.File // the root
	memory  *os.File
	shared  bool // the memory's file is written to by the mapping
	sealed  bool // the memory's file is shared with other machines
	monitor *monitor
	// inherited is how many bytes a memory's file that is not written to had
	// when the machine started.
	inherited int64
	link      net.Conn
	bell      net.Conn
	console   *process.Tail
	drained   chan struct{} // closed when the console has said all
	stderr    *process.Tail

	power sync.Mutex // held while the machine is stopped, started or saved
	disks []string   // guarded by power: the chain's files in the work directory
	still bool       // guarded by power: paused

	mu       sync.Mutex // guards the following
	stopping bool       // an end was asked for
	gone     bool       // saved, and ended for that
	guestEnd string     // what the guest did to end the machine

	destroyMu sync.Mutex
	destroyed bool
}

func newMachine(d *Driver, id, dir string) *vm {
	return &vm{
		driver: d, id: id, dir: dir, group: cgroup.Open(id),
		console: process.NewTail(tailBytes), drained: make(chan struct{}), stderr: process.NewTail(tailBytes),
		Process: process.New(),
	}
}

// The directories of a machine.
func jailRoot(dir string) string { return filepath.Join(dir, "jail") } // where QEMU's root is mounted
func workDir(dir string) string  { return filepath.Join(dir, "work") } // the files that QEMU can write to

func (m *vm) work(name string) string { return filepath.Join(workDir(m.dir), name) }

// boot starts the machine by booting its kernel.
func (m *vm) boot(ctx context.Context, s machine.Spec) error {
	if err := m.prepare(s, false); err != nil {
		return err
	}
	if err := makeBaseDisk(ctx, m.work(baseDisk), "", s.DiskBytes); err != nil {
		return err
	}
	memory, err := newMemory(s.MemoryBytes)
	if err != nil {
		return err
	}
	m.memory, m.shared, m.disks = memory, true, []string{baseDisk}
	if err := writeInitramfs(filepath.Join(m.dir, "initramfs"), s.Agent, s.Image.Modules); err != nil {
		return err
	}
	return m.start(ctx, nil)
}

// startFromTemplate starts a machine that was saved when it knew nothing of
// its disks yet. The network card, which is down in a template, is given away
// when nothing can fail any more: it can be given away once.
func (m *vm) startFromTemplate(ctx context.Context, s machine.Spec) error {
	var card machine.NIC
	held := s
	held.AttachNIC = func(nic machine.NIC) error { card = nic; return nil }
	err := m.loadTemplate(ctx, held)
	if err == nil {
		if err = s.AttachNIC(card); err == nil {
			return nil
		}
		err = errors.Join(errCard, err)
	}
	if card.File != nil {
		_ = card.File.Close()
	}
	return err
}

func (m *vm) loadTemplate(ctx context.Context, s machine.Spec) error {
	if err := m.prepare(s, true); err != nil {
		return err
	}
	dir := s.Template.Dir
	if err := makeBaseDisk(ctx, m.work(baseDisk), blankDisk(dir), s.DiskBytes); err != nil {
		return err
	}
	m.disks = []string{baseDisk}
	return m.load(ctx, *s.Template)
}

// restore starts a machine that was saved in the middle of its life.
func (m *vm) restore(ctx context.Context, s machine.Spec, from machine.Snapshot) error {
	meta, err := readSaved(from.Dir, s)
	if err != nil {
		return err
	}
	if err := m.prepare(s, from.Memory != ""); err != nil {
		return err
	}
	if err := m.takeDisks(ctx, meta, from.Dir); err != nil {
		return err
	}
	if err := m.load(ctx, from); err != nil {
		return err
	}
	return m.ring(ctx)
}

// takeDisks puts a saved chain into the work directory: as it is, if nobody
// else can, or with a file on top that takes what this machine writes.
func (m *vm) takeDisks(ctx context.Context, meta saved, dir string) error {
	if err := linkAll(workDir(m.dir), dir, meta.Disks); err != nil {
		return err
	}
	m.disks = meta.Disks
	if meta.Once {
		return nil
	}
	top := diskName(m.disks)
	m.disks = append(m.disks[:len(m.disks):len(m.disks)], top)
	return makeOverlay(ctx, m.work(top), m.spec.DiskBytes)
}

// load starts QEMU with a saved state and waits until the guest runs.
func (m *vm) load(ctx context.Context, from machine.Snapshot) error {
	state, err := os.Open(filepath.Join(from.Dir, savedState))
	if err != nil {
		return fmt.Errorf("open saved state: %w", err)
	}
	defer func() { _ = state.Close() }()
	if m.sealed = from.Memory != ""; m.sealed {
		m.memory, err = openShared(from.Memory, m.spec.MemoryBytes)
	} else if m.memory, err = os.OpenFile(filepath.Join(from.Dir, savedMemory), os.O_RDWR, 0); err == nil {
		err = checkSize(m.memory, m.spec.MemoryBytes)
	}
	if err != nil {
		return fmt.Errorf("open saved memory: %w", err)
	}
	m.inherited = allocated(m.memory)
	if err := m.start(ctx, state); err != nil {
		return err
	}
	return m.awaitLoaded(ctx)
}

func (m *vm) awaitLoaded(ctx context.Context) error {
	for {
		var status struct {
			Status string `json:"status"`
		}
		if err := m.monitor.run(ctx, "query-status", nil, &status); err != nil {
			return m.because(err)
		}
		switch status.Status {
		case "running":
			return nil
		case "inmigrate":
		default:
			return m.because(fmt.Errorf("qemu is %q after it loaded a saved state", clip(status.Status)))
		}
		select {
		case <-time.After(loadPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ring tells a restored agent that its link is a new one, and waits until it
// has let go of the old one.
func (m *vm) ring(ctx context.Context) error {
	deadline := time.Now().Add(bellPatience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = m.bell.SetDeadline(deadline)
	interrupt := context.AfterFunc(ctx, func() { _ = m.bell.SetDeadline(time.Now()) })
	defer interrupt()
	answer := []byte{bellRestored}
	_, err := m.bell.Write(answer)
	if err == nil {
		_, err = io.ReadFull(m.bell, answer)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return m.because(fmt.Errorf("await the restored agent: %w", err))
	}
	return nil
}

// prepare makes what every machine needs. Its memory may be a view of what
// others share.
func (m *vm) prepare(s machine.Spec, shared bool) error {
	m.spec = s
	for _, dir := range []string{jailRoot(m.dir), workDir(m.dir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make machine directory: %w", err)
		}
	}
	image, err := os.Open(s.Image.File)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	m.image = image
	return m.group.Create(m.driver.limits(s, shared))
}

// start runs QEMU. When ctx ends first, Destroy ends what was started.
func (m *vm) start(ctx context.Context, state *os.File) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	started := make(chan error, 1)
	go m.run(state, started)
	if err := <-started; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, process.Patience)
	defer cancel()
	if err := m.monitor.run(ctx, "qmp_capabilities", nil, nil); err != nil {
		return m.because(err)
	}
	return nil
}

// run owns the thread that starts QEMU, whose death signal is tied to it. It
// therefore lives until QEMU has ended, and is never given back to the
// scheduler.
func (m *vm) run(state *os.File, started chan<- error) {
	runtime.LockOSThread()
	cmd, err := m.launch(state)
	if err != nil {
		m.Finish(machine.Exit{Reason: machine.ExitCrashed, Detail: err.Error()})
		started <- err
		return
	}
	started <- nil
	err = cmd.Wait()
	m.Finish(m.exitOf(err))
}

// launch starts the jail with everything that QEMU inherits.
func (m *vm) launch(state *os.File) (_ *exec.Cmd, err error) {
	files, err := m.wires()
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	inherited := append(files[:len(files):len(files)], m.memory, m.image)
	if state != nil {
		inherited = append(inherited, state)
	}
	cmd, control, err := jail.Command(m.driver.Jail, inherited)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = m.stderr
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = cmd.ExtraFiles[len(cmd.ExtraFiles)-1].Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start qemu: %w", err), control.Close())
	}
	m.Started(cmd.Process)
	m.control, m.uid = control, uidBase+cmd.Process.Pid
	if err := m.release(state != nil); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return cmd, nil
}

// release gives a started jail its files and lets it go on.
func (m *vm) release(load bool) error {
	if err := m.group.Enter(m.PID()); err != nil {
		return err
	}
	if err := give(m.work(m.disks[len(m.disks)-1]), m.uid); err != nil {
		return err
	}
	if m.memory.Name() != memoryName && !m.sealed { // a file on disk, this machine's alone
		if err := m.memory.Chown(m.uid, m.uid); err != nil {
			return fmt.Errorf("give memory to qemu: %w", err)
		}
	}
	p := plan{spec: m.spec, accel: m.driver.Accel, disks: m.disks, shared: m.shared, load: load}
	if p.accel == TCG {
		p.tscKHz = m.driver.tsc()
	}
	return jail.Send(m.control, m.driver.jailConfig(m.spec, m.uid, m.dir, p))
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// wires makes the sockets between shim and QEMU, keeps its own ends and
// returns QEMU's, in the order of the descriptors fdQMP and so on.
func (m *vm) wires() (theirs []*os.File, err error) {
	var ours []net.Conn
	var card *os.File
	defer func() {
		if err != nil && m.monitor == nil { // nobody has them yet
			for _, our := range ours {
				_ = our.Close()
			}
			_ = card.Close() // which a nil one survives
		}
	}()
	for fd := fdQMP; fd <= fdConsole; fd++ {
		var their *os.File
		if fd == fdNIC {
			card, their, err = process.SocketPair()
		} else {
			var our net.Conn
			if our, their, err = process.ConnPair(); err == nil {
				ours = append(ours, our)
			}
		}
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, their)
	}
	m.monitor = openMonitor(ours[0], m.event)
	m.link, m.bell = ours[1], ours[2]
	go drain(ours[3], m.console, m.drained)
	if err := m.spec.AttachNIC(machine.NIC{Kind: machine.NICStream, File: card, MTU: m.spec.Network.MTU}); err != nil {
		return theirs, errors.Join(errCard, err, card.Close())
	}
	return theirs, nil
}

// event takes note of how the guest ended the machine. It runs on the
// monitor's goroutine.
func (m *vm) event(e event) {
	if e.Name != "SHUTDOWN" || !e.Data.Guest {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Data.Reason {
	case "guest-reset":
		m.guestEnd = "the guest rebooted"
	case "guest-panic":
		m.guestEnd = "the guest's kernel panicked"
	default:
		m.guestEnd = "the guest switched itself off"
	}
}

// panicNotice begins the kernel's last words; it then reboots.
const panicNotice = "Kernel panic - not syncing"

// exitOf tells why QEMU ended.
func (m *vm) exitOf(err error) machine.Exit {
	if m.monitor != nil {
		m.monitor.close()
		select {
		case <-m.drained:
		case <-time.After(lastWords):
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	detail := m.guestEnd
	if strings.Contains(m.console.String(), panicNotice) {
		detail = "the guest's kernel panicked"
	}
	if detail == "" {
		detail = "qemu exited"
		if err != nil {
			detail += ": " + err.Error()
		}
	}
	for _, said := range []string{m.stderr.String(), m.console.String()} {
		if said != "" {
			detail += ": " + said
		}
	}
	switch {
	case m.gone:
		return machine.Exit{Reason: machine.ExitSaved}
	case m.group.OOMKills() > 0:
		return machine.Exit{Reason: machine.ExitOOM, Detail: detail}
	case m.stopping:
		return machine.Exit{Reason: machine.ExitStopped, Detail: detail}
	default:
		return machine.Exit{Reason: machine.ExitCrashed, Detail: detail}
	}
}

// because adds what QEMU said to an error that its end may be the reason of.
func (m *vm) because(err error) error {
	if said := m.stderr.String(); said != "" {
		return fmt.Errorf("%w: %.512q", err, said)
	}
	return err
}

// State is what Reattach needs.
func (m *vm) State() machine.State { return machine.State{Driver: Name, ID: m.id, Dir: m.dir} }

// Link is the byte stream to the agent.
func (m *vm) Link() net.Conn {
	if m.link == nil {
		return nil
	}
	return m.link
}

// Stop asks the agent to end the machine, then kills it.
func (m *vm) Stop(ctx context.Context) error {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	if m.bell == nil || m.standsStill() {
		return m.kill()
	}
	_ = m.bell.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := m.bell.Write([]byte{bellEnd}); err != nil {
		return m.kill()
	}
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-m.Done():
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return m.kill()
}

// standsStill reports whether the guest can't hear a bell; a machine that is
// being saved can't.
func (m *vm) standsStill() bool {
	if !m.power.TryLock() {
		return true
	}
	defer m.power.Unlock()
	return m.still
}

// kill ends QEMU and waits for its end.
func (m *vm) kill() error {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	return m.Kill()
}

// Destroy ends the machine and frees everything.
func (m *vm) Destroy(ctx context.Context) error {
	m.destroyMu.Lock()
	defer m.destroyMu.Unlock()
	if m.destroyed {
		return nil
	}
	err := errors.Join(m.kill(), m.group.Remove(ctx))
	if m.bell != nil {
		_ = m.bell.Close()
	}
	for _, f := range []*os.File{m.control, m.memory, m.image} {
		if f != nil {
			_ = f.Close()
		}
	}
	if err == nil {
		err = os.RemoveAll(m.dir)
	}
	m.destroyed = err == nil
	return err
}

// Boot is what the agent needs to know to start the system.
func (m *vm) Boot() link.Boot {
	n := m.spec.Network
	return link.Boot{
		Root: rootSerial, Disk: diskSerial, CardMAC: n.GuestMAC.String(), MTU: n.MTU, GatewayMAC: n.GatewayMAC.String(),
		Guest4: n.Guest4, Gateway4: n.Gateway4, Guest6: n.Guest6, Gateway6: n.Gateway6,
	}
}

// Stats measures the machine's control group.
func (m *vm) Stats(context.Context) (machine.Stats, error) {
	memory, err := m.group.MemoryBytes()
	if err != nil {
		return machine.Stats{}, fmt.Errorf("read memory use: %w", err)
	}
	return machine.Stats{MemoryBytes: memory, CopyBytes: m.copyBytes(), CPUTime: m.group.CPUTime(), Processes: m.group.Threads()}, nil
}

// copyBytes is what the guest began with and what it has changed since.
func (m *vm) copyBytes() int64 {
	switch {
	case m.memory == nil:
		return 0
	case m.shared:
		return allocated(m.memory)
	}
	return min(m.inherited+m.group.PrivateBytes(), m.spec.MemoryBytes)
}

// Settle frees what only booting needed.
func (m *vm) Settle() error {
	err := os.Remove(filepath.Join(m.dir, "initramfs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// jailConfig is what QEMU can reach.
func (d *Driver) jailConfig(s machine.Spec, uid int, dir string, p plan) jail.Config {
	c := jail.Config{
		Root: jailRoot(dir), UID: uid, MaxFile: maxFile(s), Program: d.QEMU, Args: p.args(),
		Mounts: []jail.Mount{
			{Source: "/usr", Target: "/usr"}, {Source: "/lib", Target: "/lib"}, {Source: "/etc/ld.so.cache", Target: "/etc/ld.so.cache"},
			{Source: workDir(dir), Target: jailWork, Write: true},
		},
		Devices: []jail.Device{{Name: "null", Major: 1, Minor: 3}, {Name: "urandom", Major: 1, Minor: 9}},
	}
	if _, err := os.Lstat("/lib64"); err == nil {
		c.Mounts = append(c.Mounts, jail.Mount{Source: "/lib64", Target: "/lib64"})
	}
	if !p.load {
		c.Mounts = append(c.Mounts,
			jail.Mount{Source: s.Image.Kernel, Target: jailKernel},
			jail.Mount{Source: filepath.Join(dir, "initramfs"), Target: jailInitramfs})
	}
	if p.accel == KVM {
		c.Devices = append(c.Devices, jail.Device{Name: "kvm", Major: 10, Minor: 232})
	}
	return c
}

// maxFile is how long the files in the work directory can become: a disk that
// is full, with qcow2's tables (less than a thousandth), or a saved state. What
// has taken over QEMU could fill the host's disk otherwise.
func maxFile(s machine.Spec) int64 { return s.DiskBytes + s.DiskBytes/256 + 64<<20 }

func clip(s string) string { return fmt.Sprintf("%.64s", s) }

var (
	_ machine.Machine     = (*vm)(nil)
	_ machine.Booter      = (*vm)(nil)
	_ machine.Settler     = (*vm)(nil)
	_ machine.StatsReader = (*vm)(nil)
	_ machine.Pauser      = (*vm)(nil)
	_ machine.Saver       = (*vm)(nil)
)
