//go:build e2e

package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
)

// How a guest ends its machine is told from how it ends otherwise. What it
// said last is for the log: bounded, and without what a terminal obeys.
func TestEndsOfVMs(t *testing.T) {
	for name, c := range map[string]struct{ script, detail, says string }{
		"panic": {
			`printf '\033[31mred\033[0m\302\233 words\n' > /dev/ttyS0; echo c > /proc/sysrq-trigger`,
			"the guest's kernel panicked", "Kernel panic - not syncing: sysrq triggered crash",
		},
		"reboot":           {"echo b > /proc/sysrq-trigger", "the guest rebooted", ""},
		"orderly reboot":   {reboot("0x01234567"), "the guest rebooted", ""},
		"orderly shutdown": {reboot("0x4321fedc"), "the guest switched itself off", ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVM(t, unread(t))
			v.spawn(t, "sudo", "sh", "-c", c.script)
			e := v.exit(t)
			if e.Reason != machine.ExitCrashed || !strings.HasPrefix(e.Detail, c.detail) || !strings.Contains(e.Detail, c.says) {
				t.Errorf("it ended with %+v", e)
			}
			if len(e.Detail) > 16<<10 {
				t.Errorf("%d bytes of detail", len(e.Detail))
			}
			for _, r := range e.Detail {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%q in the detail", r)
				}
			}
			if c.says != "" && !strings.Contains(e.Detail, "words") {
				t.Errorf("its last words are not there: %q", e.Detail)
			}
		})
	}
}

// reboot is a command that ends a machine as "reboot -f" does: see reboot(2).
func reboot(how string) string {
	return `python3 -c "import ctypes; ctypes.CDLL(None).reboot(` + how + `)"`
}

func TestKilledQEMU(t *testing.T) {
	v := startVM(t, unread(t))
	if err := syscall.Kill(v.qemu, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := v.exit(t); e.Reason != machine.ExitCrashed || !strings.Contains(e.Detail, "signal: killed") {
		t.Errorf("it ended with %+v", e)
	}
	if err := v.m.Stop(deadline(t)); err != nil {
		t.Error(err)
	}
}

// A QEMU that hangs holds up nobody for longer than they wait.
func TestHungQEMU(t *testing.T) {
	v := startVM(t, unread(t))
	if err := syscall.Kill(v.qemu, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, power := range map[string]func(context.Context) error{
		"pause": v.m.(machine.Pauser).Pause,
		"save": func(ctx context.Context) error {
			_, err := v.m.(machine.Saver).Save(ctx, machine.SaveOptions{Dir: dir, Leave: true})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := power(ctx); err == nil {
			t.Errorf("%s of a machine that hangs", name)
		}
		cancel()
	}
	if err := v.m.Stop(deadline(t)); err != nil {
		t.Error(err)
	}
	if e := v.exit(t); e.Reason != machine.ExitStopped {
		t.Errorf("it ended with %+v", e)
	}
}

// A guest that uses up its memory loses the process that did, and goes on.
func TestGuestOutOfMemory(t *testing.T) {
	v := startVM(t, unread(t))
	var status api.ProcessStatus
	pid := v.spawn(t, "python3", "-c", "kept = []\nwhile True: kept.append(b'x' * (1 << 20))")
	if err := v.tryCall("processWait", api.PIDParams{PID: pid}, &status); err != nil {
		t.Fatalf("%v; it ended with %+v", err, v.exit(t))
	}
	if status.Success || status.Signal == nil && status.Code == 0 {
		t.Errorf("it ended with %+v", status)
	}
	v.survives(t)
}

// A QEMU that reaches the limit of its control group ends, and the machine
// with it.
func TestQEMUOutOfMemory(t *testing.T) {
	v := startVM(t, unread(t))
	used, err := cgroup.Open(v.spec.ID).MemoryBytes()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cgroup.Root, "memory", cgroup.Parent, v.spec.ID, "memory.limit_in_bytes")
	if cgroup.Version() == "v2" {
		file = filepath.Join(cgroup.Root, cgroup.Parent, v.spec.ID, "memory.max")
	}
	if err := os.WriteFile(file, []byte(strconv.FormatInt(used+16<<20, 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	v.spawn(t, "python3", "-c", "kept = [b'x' * (1 << 20) for _ in range(256)]\nwhile True: pass")
	if e := v.exit(t); e.Reason != machine.ExitOOM {
		t.Errorf("it ended with %+v", e)
	}
}

// A guest that fills its disk is told so, and goes on.
func TestGuestFillsItsDisk(t *testing.T) {
	v := startVM(t, unread(t))
	v.do(t, `! dd if=/dev/zero of=/home/app/full bs=1M 2> /dev/shm/dd && grep -q "No space left" /dev/shm/dd`)
	v.do(t, `rm /home/app/full && echo kept > /home/app/kept && sync && grep -q kept /home/app/kept`)
}

// A host whose disk is full fails what the guest writes; the machine goes on.
func TestHostDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	d, log := vmDriver(t)
	s := vmSpec(t, unread(t))
	s.Template = template(t, d, s)
	s.Dir = filepath.Join(dir, "machine")
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	v := beginVM(t, d, log, s)
	v.do(t, `! dd if=/dev/urandom of=/home/app/full bs=1M count=160 oflag=direct 2> /dev/null`)
	v.survives(t)
}

// A paused machine's QEMU executes nothing, so that one that was taken over
// does not, either.
func TestPausedMachinesQEMUStandsStill(t *testing.T) {
	v := startVM(t, unread(t))
	stopped := func(want bool) bool {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.qemu))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(raw), ") T ") == want {
				return want
			}
		}
		return !want
	}
	pauser := v.m.(machine.Pauser)
	if err := pauser.Pause(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if !stopped(true) {
		t.Error("paused, it runs")
	}
	saved, err := v.m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: t.TempDir(), Leave: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = saved.Close() }()
	if !stopped(true) {
		t.Error("saved while paused, it runs")
	}
	if err := pauser.Resume(deadline(t)); err != nil {
		t.Fatal(err)
	}
	v.do(t, "true")
	if stopped(false) {
		t.Error("resumed, it is stopped")
	}
}
