//go:build e2e

package machine

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

// attack is what a guest's root does to what it can reach of QEMU and of the
// shim: a row of the threat model.
type attack struct {
	id, what string
	script   string // Python, run by root, for some seconds at most
	lives    bool   // the machine must go on; else it may also end, or be of no use to its guest until somebody ends it
}

// prelude is what the scripts share.
const prelude = `
import ctypes, glob, mmap, os, random, socket, struct, subprocess, sys, time
end = time.time() + 3
libc = ctypes.CDLL(None, use_errno=True)
def attempt(do, *args):
    try:
        return do(*args)
    except (OSError, ValueError, OverflowError) as e:
        return e
def put(path, text):
    def write():
        with open(path, "w") as f:
            f.write(text)
    return attempt(write)
def rebind(driver, times):
    place = "/sys/bus/virtio/drivers/" + driver
    devices = [os.path.basename(p) for p in glob.glob(place + "/virtio*")]
    assert devices, driver
    for _ in range(times):
        for device in devices:
            put(place + "/unbind", device)
            put(place + "/bind", device)
def port(name):  # a descriptor of the agent's, by pidfd_open and pidfd_getfd
    agent = libc.syscall(434, 1, 0)
    for fd in range(3, 64):
        own = libc.syscall(438, agent, fd, 0)
        if own >= 0:
            path = os.readlink("/proc/self/fd/%d" % own)
            if path.startswith("/dev/vport") and open("/sys/class/virtio-ports/%s/name" % path[5:]).read().strip() == name:
                return own
    raise SystemExit("there is no port " + name)
`

var attacks = []attack{
	{id: "driver-card", what: "takes the network card from its driver and gives it back, again and again", lives: true, script: `
rebind("virtio_net", 20)
for _ in range(3):
    subprocess.run(["modprobe", "-r", "virtio_net"], check=True)
    subprocess.run(["modprobe", "virtio_net"], check=True)`},
	{id: "driver-rng", what: "the same with the source of random numbers", lives: true, script: `
rebind("virtio_rng", 20)`},
	{id: "driver-disk", what: "the same with the disks, which are in use", script: `
rebind("virtio_blk", 3)`},
	{id: "driver-ports", what: "the same with link and bell", script: `
rebind("virtio_console", 3)`},
	{id: "console-flood", what: "floods the serial console and the kernel's log", lives: true, script: `
put("/proc/sys/kernel/printk", "8")
put("/proc/sys/kernel/printk_devkmsg", "on")
tty = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NONBLOCK)
log = os.open("/dev/kmsg", os.O_WRONLY)
while time.time() < end:
    attempt(os.write, tty, os.urandom(4096))
    attempt(os.write, log, b"\x1b[2J" + os.urandom(300))`},
	{id: "link-garbage", what: "writes to the link in the agent's name", script: `
link = port("atoll.link")
while time.time() < end:
    if attempt(os.write, link, os.urandom(random.randrange(1, 65536))):
        time.sleep(0.01)`},
	{id: "bell-garbage", what: "writes to the bell in the agent's name", lives: true, script: `
bell = port("atoll.bell")
os.set_blocking(bell, False)
while time.time() < end:
    attempt(os.write, bell, os.urandom(random.randrange(1, 65536)))
    time.sleep(0.01)`},
	{id: "frames", what: "floods the card with malformed frames of all sizes", lives: true, script: `
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 0))
s.setblocking(False)
head = bytes.fromhex("02a70000000102a700000002")
kinds = [b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"\x00\x00"]
while time.time() < end:
    body = random.choice([bytes(1), b"\x45\0", b"\x60\0\0\0", b"\x4f\xff\xff\xff", b""]) + os.urandom(random.choice([0, 1, 5, 19, 20, 39, 40, 60, 1480, 1498, 1500, 1501, 4096, 65535]))
    attempt(s.send, random.choice([head, os.urandom(12)]) + random.choice(kinds) + body)`},
	{id: "ports", what: "writes to all ports of the processor's, those of firmware and interrupts among them", script: `
assert libc.syscall(172, 3) == 0  # iopl
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\x89\xfa\x89\xf0\xee\xc3\x89\xfa\x89\xf0\xef\xc3")  # mov edi,edx; mov esi,eax; out al,dx; ret; the same with eax
start = ctypes.addressof(ctypes.c_char.from_buffer(code))
out8, out32 = (ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint)(start + at) for at in (0, 6))
while time.time() < end:
    for at in list(range(0x510, 0x51c)) + [random.randrange(0xfff0) for _ in range(500)]:
        if not 0x3f8 <= at < 0x400:
            random.choice([out8, out32])(at, random.choice([0, 1, 0xff, random.randrange(1 << 32)]))`},
	{id: "device-memory", what: "writes to the registers of its devices, past all drivers", script: `
libc.mlockall(3)  # the disks will be gone
held = "/sys/fs/cgroup/held"  # so that the agent does not end the machine
os.mkdir(held)
put(held + "/cgroup.procs", "1")
put(held + "/cgroup.freeze", "1")
drivers = "/sys/bus/platform/drivers/virtio-mmio/"
devices = [os.path.basename(d) for d in glob.glob(drivers + "LNRO*")]
assert devices
for device in devices:
    put(drivers + "unbind", device)
memory = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
page = mmap.mmap(memory, 0x1000, offset=0xfeb00000)
registers = (ctypes.c_uint32 * 0x400).from_buffer(page)
usual = [0x14, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4]
while time.time() < end:
    device = 0x200 * random.randrange(8)
    at = random.choice(usual + [4 * random.randrange(0x80)])
    registers[(device + at) // 4] = random.choice([0, 1, 2, 4, 15, 256, 0x100000 + 4096 * random.randrange(4096), random.randrange(1 << 32)])
put(held + "/cgroup.freeze", "0")`},
	{id: "msr", what: "writes to the processor's registers (MSRs)", script: `
subprocess.run(["modprobe", "msr"])
msr = os.open("/dev/cpu/0/msr", os.O_RDWR)
for base in (0, 0x10, 0x1b, 0x1a0, 0x200, 0x277, 0x2ff, 0x400, 0x800, 0x830, 0x40000000, 0x4b564d00, 0xc0000080, 0xc0000100, 0xc0010000):
    for n in range(32):
        attempt(os.pwrite, msr, os.urandom(8), base + n)`},
}

// Whatever a guest's root does, the machine lives on or ends, the shim neither
// waits nor grows, and nothing is left.
func TestHostileGuests(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.id, func(t *testing.T) {
			v := startVM(t, world(t))
			v.write(t, "/home/app/attack.py", prelude+a.script+"\nprint('done')\n")
			began := spent(t)
			state := v.attacked(a.limit())
			used := spent(t)
			t.Logf("the machine: %s; the shim spent %v, and grew by %d KiB", state, used.cpu-began.cpu, (used.memory-began.memory)>>10)
			if grown := used.memory - began.memory; grown > 64<<20 {
				t.Errorf("the shim grew by %d bytes", grown)
			}
			if a.lives {
				if state != "lives" {
					t.Fatalf("the machine does not go on: %s", state)
				}
				v.survives(t)
			}
			if a.id == "frames" || a.id == "console-flood" {
				v.do(t, `python3 -c 'import socket; s=socket.create_connection(("20.0.0.7",7)); s.sendall(b"x"); assert s.recv(1)==b"x"'`)
			}
			if err := v.m.Stop(deadline(t)); err != nil {
				t.Error(err)
			}
			t.Logf("its end: %.300q", v.exit(t).Detail)
		})
	}
}

// limit is how many seconds an attack may take: those that a machine must
// survive take as long as they need, the others may never end by themselves.
func (a attack) limit() int {
	if a.lives {
		return 120
	}
	return 20
}

// attacked runs the attack and says what became of the machine.
func (v *vm) attacked(seconds int) string {
	var p api.SpawnResult
	var status api.ProcessStatus
	answered := make(chan error, 1)
	go func() {
		err := v.tryCall("spawn", api.SpawnParams{
			Command: "sudo", Args: []string{"sh", "-c", fmt.Sprintf("timeout -k 1 %d python3 /home/app/attack.py > /home/app/said 2>&1", seconds)},
			ProcessOptions: api.ProcessOptions{Stdout: "null", Stderr: "null"},
		}, &p)
		if err == nil {
			err = v.tryCall("processWait", api.PIDParams{PID: p.PID}, &status)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		switch {
		case err == nil && status.Success:
			return "lives"
		case err == nil:
			var said string
			_ = v.tryCall("readTextFile", api.ReadFileParams{Path: "/home/app/said"}, &said)
			return "lives; the attack failed: " + said
		}
		return "the link ended: " + err.Error()
	case e := <-v.m.Exited():
		v.ended <- e
		return "ended: " + e.Detail
	case <-time.After(time.Duration(2*seconds) * time.Second):
		return "hangs"
	}
}

// spending is what this process has used.
type spending struct {
	cpu    time.Duration
	memory int64 // bytes in use
}

func spent(t *testing.T) spending {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return spending{time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), int64(memory.HeapInuse + memory.StackInuse)}
}

// TestAttacksAreInTheThreatModel holds the page and the attacks together.
func TestAttacksAreInTheThreatModel(t *testing.T) {
	page, err := os.ReadFile("../../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "\n## Out of a virtual machine\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	var rows []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == 3 && strings.HasPrefix(cells[0], "| `") {
			rows = append(rows, cells[0]+" | "+cells[1])
		}
	}
	for i, a := range attacks {
		if want := "| `" + a.id + "` | " + a.what; i >= len(rows) || rows[i] != want {
			t.Errorf("row %d of the page is not %q", i+1, want)
		}
	}
	if len(rows) != len(attacks) {
		t.Errorf("%d rows, %d attacks", len(rows), len(attacks))
	}
}
