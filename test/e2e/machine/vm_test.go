//go:build e2e

package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

// vmMemory is what the virtual machines of these tests have.
const vmMemory = 512 << 20

// vm is a virtual machine with a session of its agent.
type vm struct {
	*guest
	driver *microvm.Driver
	spec   machine.Spec
	log    *journal
	qemu   int // process id
	ended  chan machine.Exit
	late   time.Duration // between the time that the guest was told and its answer
}

// journal keeps what a driver logs.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// vmDriver is a driver with a journal.
func vmDriver(t *testing.T) (*microvm.Driver, *journal) {
	t.Helper()
	d, _ := microvms(t)
	j := &journal{}
	c := d.Config
	c.Log = slog.New(slog.NewTextHandler(j, nil))
	return microvm.New(c), j
}

// unread is a card that nobody reads.
func unread(t *testing.T) func(machine.NIC) error {
	return func(nic machine.NIC) error {
		t.Cleanup(func() { _ = nic.File.Close() })
		return nil
	}
}

// vmSpec is of a machine whose card is given to attach, without a template.
func vmSpec(t *testing.T, attach func(machine.NIC) error) machine.Spec {
	t.Helper()
	_, s := microvms(t)
	s.ID = "vm-" + time.Now().Format("150405.000000000")
	s.Dir = filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Hostname, s.MemoryBytes, s.Network, s.AttachNIC = "vm", vmMemory, network(), attach
	return s
}

// startVM starts a machine from the template and opens its first session.
func startVM(t *testing.T, attach func(machine.NIC) error) *vm {
	t.Helper()
	d, log := vmDriver(t)
	s := vmSpec(t, attach)
	s.Template = template(t, d, s)
	return beginVM(t, d, log, s)
}

func beginVM(t *testing.T, d *microvm.Driver, log *journal, s machine.Spec) *vm {
	t.Helper()
	m, err := d.Start(deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	v := newVM(t, d, log, s, m)
	boot := m.(machine.Booter).Boot()
	v.begin(t, 1, func(now int64) any {
		return link.Config{
			Generation: 1, SandboxID: s.ID, Hostname: s.Hostname, MemoryBytes: s.MemoryBytes, TimeUnixNs: now,
			UserID: 1000, GroupID: 1000, User: "app", Home: "/home/app", MaxMessage: 1 << 20,
			Entropy: random(32), MachineID: hex.EncodeToString(random(16)), Boot: &boot,
		}
	})
	return v
}

// becomeVM starts a machine that continues as a child of the one that was
// saved.
func becomeVM(t *testing.T, parent *vm, from machine.Snapshot) *vm {
	t.Helper()
	s := vmSpec(t, unread(t))
	s.Hostname, s.DiskBytes = "child", parent.spec.DiskBytes
	m, err := parent.driver.Restore(deadline(t), s, from)
	if err != nil {
		t.Fatal(err)
	}
	v := newVM(t, parent.driver, parent.log, s, m)
	v.begin(t, 2, func(now int64) any {
		return struct {
			Resume link.Resume `json:"resume"`
		}{link.Resume{
			Generation: 2, TimeUnixNs: now, Entropy: random(32), CutNetwork: true,
			Identity: &link.Identity{SandboxID: s.ID, ForkedFrom: parent.spec.ID, Hostname: s.Hostname, MachineID: hex.EncodeToString(random(16))},
		}}
	})
	return v
}

// begin opens a session whose first message is made when it is sent.
func (v *vm) begin(t *testing.T, generation uint32, first func(now int64) any) {
	t.Helper()
	var sent time.Time
	v.guest = session(t, v.m, generation, whenSent(func() any {
		sent = time.Now()
		return first(sent.UnixNano())
	}))
	v.late = time.Since(sent)
}

// whenSent is a message that is made when it is sent.
type whenSent func() any

func (f whenSent) MarshalJSON() ([]byte, error) { return json.Marshal(f()) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// newVM sees to it that nothing is left of a machine at the end of its test.
func newVM(t *testing.T, d *microvm.Driver, log *journal, s machine.Spec, m machine.Machine) *vm {
	t.Helper()
	v := &vm{guest: &guest{m: m}, driver: d, spec: s, log: log, ended: make(chan machine.Exit, 1)}
	t.Cleanup(func() {
		if err := v.m.Destroy(context.Background()); err != nil {
			t.Errorf("destroy: %v", err)
		}
		_ = v.m.Link().Close()
		v.vanished(t)
	})
	pids := cgroup.Open(s.ID).PIDs()
	if len(pids) != 1 {
		t.Fatalf("processes %v", pids)
	}
	v.qemu = pids[0]
	return v
}

// vanished checks that nothing is left of a destroyed machine.
func (v *vm) vanished(t *testing.T) {
	t.Helper()
	if slices.Contains(cgroup.Leftovers(), v.spec.ID) {
		t.Errorf("the control group %s is left", v.spec.ID)
	}
	if _, err := os.Lstat(v.spec.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left (%v)", err)
	}
	if err := syscall.Kill(v.qemu, 0); err == nil {
		t.Errorf("process %d is left", v.qemu)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), v.spec.Dir) {
		t.Errorf("a mount is left (%v)", err)
	}
}

// exit awaits the machine's end.
func (v *vm) exit(t *testing.T) machine.Exit {
	t.Helper()
	select {
	case e := <-v.ended: // somebody has read it already
		return e
	case e := <-v.m.Exited():
		return e
	case <-time.After(patience):
		t.Fatal("the machine does not end")
		return machine.Exit{}
	}
}

// says returns what a script prints, whose end must be good.
func (v *vm) says(t *testing.T, script string) string {
	t.Helper()
	v.do(t, "{ "+script+"\n} > /tmp/says 2>&1 || { cat /tmp/says > /tmp/failed; exit 1; }")
	return strings.TrimSpace(v.read(t, "/tmp/says"))
}

// survives checks that the agent answers and can start programs.
func (v *vm) survives(t *testing.T) {
	t.Helper()
	if got := v.says(t, "echo $((6*7))"); got != "42" {
		t.Errorf("it says %q", got)
	}
}
