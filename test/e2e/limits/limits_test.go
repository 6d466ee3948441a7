//go:build e2e

// Package limits lets hostile code take what it can get: memory, processes,
// disk. Only its own sandbox may suffer.
package limits

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// answers fails the test unless a sandbox answers.
func answers(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	if out := c.MustShell(ctx, t, "echo on"); out != "on\n" {
		t.Errorf("%q", out)
	}
}

// memoryMiB is the guest's own view.
func memoryMiB(ctx context.Context, t *testing.T, c *harness.Conn) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(c.MustShell(ctx, t, "awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatTheGuestSees(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	for script, want := range map[string]string{
		"nproc": "2", "whoami": "app", "pwd": "/home/app", "id -u": "1000", "echo $HOME": "/home/app",
		"sudo -n whoami":                        "root",
		"sudo -n id -u":                         "0",
		"stat -c %U:%a ~":                       "app:700",
		"stat -c %a /tmp":                       "1777",
		"echo x > /dev/shm/x && cat /dev/shm/x": "x",
	} {
		if got := strings.TrimSpace(c.MustShell(ctx, t, script)); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := memoryMiB(ctx, t, c); got < 1280*9/10 || got > 1280+128 {
		t.Errorf("the guest of 1280 MiB sees %d MiB", got)
	}
	if out, err := c.Shell(ctx, "echo x > /etc/x"); err != nil || out.Success {
		t.Errorf("app could write to /etc: %+v %v", out, err)
	}
	c.MustShell(ctx, t, "sudo -n sh -c 'echo x > /etc/x' && test -f /etc/x")
	if out := c.MustShell(ctx, t, "ls -A /proc/self/root/.. /sys/fs/cgroup /host 2>/dev/null; true"); strings.Contains(out, "atoll-e2e") {
		t.Errorf("the guest sees the host: %s", out)
	}
}

// A process that takes more memory than there is ends, with the mark, and the
// sandbox goes on.
func TestProcessRunsOutOfMemory(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	other, c := s.MustCreate(ctx, t, nil), s.MustCreate(ctx, t, map[string]any{"memory_mb": 768})
	out, err := c.Shell(ctx, `exec python3 -c '
import re, time
kept = []
def available():
    return int(re.search(r"MemAvailable: *(\d+)", open("/proc/meminfo").read())[1]) >> 10
while True: # the last of it slowly, so that the agent sees it in time however busy the host is
    kept.append(bytearray(b"x") * ((8 if available() > 128 else 1) << 20))
    time.sleep(0.04)
'`)
	if err != nil {
		t.Fatalf("the sandbox did not survive: %v", err)
	}
	if out.Success || out.OOM == nil {
		t.Errorf("the process ended with %+v, want oom", out.ProcessStatus)
	}
	answers(ctx, t, c)
	answers(ctx, t, other)
}

// What takes memory faster than the agent can see ends either the process or
// the sandbox, and nobody else.
func TestSandboxRunsOutOfMemory(t *testing.T) {
	for name, script := range map[string]string{
		"fast":     `exec python3 -c 'x = [bytearray(b"x") * (1 << 30) for _ in range(100)]'`,
		"dev shm":  `exec dd if=/dev/zero of=/dev/shm/fill bs=4M count=512`,
		"many":     `for i in 1 2 3 4; do python3 -c 'x = bytearray(b"x") * (1 << 30)' & done; wait`,
		"as root":  `sudo -n mount -t tmpfs none /mnt && sudo -n dd if=/dev/zero of=/mnt/fill bs=4M count=2048 || sudo -n python3 -c 'x = bytearray(b"x") * (8 << 30)'`,
		"by pipes": `exec python3 -c 'import os; p = [os.pipe() for _ in range(400)]; [os.set_blocking(w, False) or os.write(w, b"x" * 65536) for r, w in p]; x = bytearray(b"x") * (4 << 30)'`,
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.New(t)
			ctx := harness.Context(t, 3*harness.TestLimit)
			other, c := s.MustCreate(ctx, t, nil), s.MustCreate(ctx, t, map[string]any{"memory_mb": 768})
			out, err := c.Shell(ctx, script)
			if err == nil {
				t.Logf("the process ended: %+v %s", out.ProcessStatus, lastLine(out.Stderr))
				answers(ctx, t, c)
			} else {
				sb := s.AwaitStopped(ctx, t, c.ID)
				t.Logf("the sandbox ended: %s", sb.StopReason)
				if sb.StopReason != api.StopOOM {
					t.Errorf("reason %s, want oom", sb.StopReason)
				}
				if code, reason, err := c.AwaitClose(ctx); err != nil || code != 1011 || reason != "sandbox out of memory" {
					t.Errorf("closed with %d %q %v", code, reason, err)
				}
			}
			answers(ctx, t, other)
			if status, _, err := s.Do(ctx, http.MethodGet, "/healthz", nil); err != nil || status != http.StatusOK {
				t.Errorf("the daemon: %d %v", status, err)
			}
		})
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestForkBomb(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 4*harness.TestLimit)
	other, c := s.MustCreate(ctx, t, nil), s.MustCreate(ctx, t, map[string]any{"timeout": "20m"})
	if _, err := c.Spawn(ctx, "bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		answers(ctx, t, other)
	}
	if err := s.Delete(ctx, c.ID); err != nil {
		t.Fatalf("a sandbox full of processes can't be killed: %v", err)
	}
	s.AwaitStopped(ctx, t, c.ID)
	answers(ctx, t, other)
	answers(ctx, t, s.MustCreate(ctx, t, nil))
}

// The disk ends where it was told to, with the error that programs know.
func TestDiskFull(t *testing.T) {
	const disk = 256 // MiB
	s := harness.New(t, "--disk", strconv.Itoa(disk))
	ctx := harness.Context(t, 2*harness.TestLimit)
	other, c := s.MustCreate(ctx, t, nil), s.MustCreate(ctx, t, nil)
	out, err := c.Shell(ctx, "dd if=/dev/zero of=fill bs=1M count=1024; code=$?; stat -c %s fill; exit $code")
	if err != nil {
		t.Fatalf("a full disk ended the sandbox: %v", err)
	}
	size, _ := strconv.Atoi(strings.TrimSpace(out.Stdout))
	t.Logf("%d MiB of %d were written: %s", size>>20, disk, lastLine(out.Stderr))
	if out.Success || !strings.Contains(out.Stderr, "No space left on device") {
		t.Errorf("code %d: %s", out.Code, out.Stderr)
	}
	if size>>20 > disk || size>>20 < disk/2 {
		t.Errorf("%d MiB were written to a disk of %d", size>>20, disk)
	}
	if err := c.Call(ctx, "writeTextFile", map[string]any{"path": "one-more", "content": strings.Repeat("x", 16<<20)}, nil); err == nil {
		t.Error("a full disk took a file of 16 MiB")
	} else if f, ok := err.(*harness.Failure); !ok || f.Code == nil || *f.Code != "ENOSPC" {
		t.Errorf("%v", err)
	}
	c.MustShell(ctx, t, "rm -f fill one-more && head -c 20M /dev/zero > again")
	answers(ctx, t, other)
}

// The output of a process whose client does not read costs bounded memory:
// the process waits.
func TestOutputThatNobodyReads(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	before, err := s.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	resident := residentMiB(t, s)
	deaf := s.Socket(ctx, t, c.ID)
	call := `{"jsonrpc":"2.0","id":1,"method":"spawn","params":{"command":"bash","args":["-c","head -c 5G /dev/zero; touch done"],"stdout":"piped","stderr":"null"}}`
	if err := deaf.Write(ctx, websocket.MessageText, []byte(call)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := deaf.Read(ctx); err != nil { // and nothing after it
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // in which gigabytes would come if anything took them
	if c.MustShell(ctx, t, "ls") != "" {
		t.Error("5 GB went somewhere")
	}
	answers(ctx, t, c)
	after, err := s.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const heap = "go_memstats_heap_inuse_bytes"
	if grown := after[heap] - before[heap]; grown > 64<<20 {
		t.Errorf("the daemon's heap grew by %.0f MiB", grown/(1<<20))
	}
	if grown := residentMiB(t, s) - resident; grown > 128 {
		t.Errorf("the processes of the sandbox grew by %d MiB", grown)
	}
	_ = deaf.CloseNow()
	answers(ctx, t, c)
}

// residentMiB is the memory of all the server's processes but the daemon.
func residentMiB(t *testing.T, s *harness.Server) (sum int) {
	t.Helper()
	for _, p := range s.Processes() {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
		if f := strings.Fields(string(raw)); len(f) > 1 {
			pages, _ := strconv.Atoi(f[1])
			sum += pages * os.Getpagesize() >> 20
		}
	}
	return sum
}
