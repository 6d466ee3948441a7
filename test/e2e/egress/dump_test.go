//go:build e2e

package egress

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/atollhq/atoll/test/e2e/harness"
)

// traffic uses the secrets in every place where the gateway has to handle
// their values.
const traffic = `#!
for n in 1 2 3; do
  curl -sS -m 60 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=raw&key=$KEY"
  curl -sS -m 60 --compressed -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=gzip"
  curl -sS -m 60 -u "user:$KEY" --json "{\"key\": \"$KEY\"}" https://api.atoll.test/json
  curl -sS -m 60 -H "X-Signature: $HOOK" --json '{"event": 1}' https://sign.atoll.test/hook
  curl -sS -m 60 -H "X-Key: $KEY" http://api.atoll.test/plain
  curl -sS -m 60 --http1.1 --rate 2/s -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=behind" https://api.atoll.test/later
  curl -sS -m 60 --http1.1 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=status"
  curl -sSk -m 60 -H "X-Key: $KEY" https://untrusted.atoll.test/
  curl -sS -m 60 -H "X-Key: $KEY" http://raw.atoll.test/elsewhere
done
python3 -c 'import os, time; key = os.environ["KEY"]; open("/home/app/holes", "w").write(key); time.sleep(600)' >/dev/null 2>&1 &
echo used`

// inside looks, as root in the guest, for values in the environment and the
// arguments of all processes and in all files that are not the image's. It
// gets the values masked.
const inside = `
import base64, glob, pathlib
wanted = [bytes(b ^ 0x55 for b in base64.b64decode(m)) for m in sys.argv[1].split(",")]
forms = [f for v in wanted for f in (v, v.hex().encode(), base64.b64encode(v), v.decode().encode("utf-16-le"), v.decode().encode("utf-16-be"))]
looked, found = 0, []
def look(path):
    global looked
    try:
        data = open(path, "rb").read()
    except OSError:
        return
    looked += 1
    if b"the canary" in data:
        found.append("canary in " + path)
    for f in forms:
        if f in data:
            found.append("value in " + path)
for name in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    look(name)
recent = subprocess.run(["find", "/", "(", "-path", "/proc", "-o", "-path", "/sys", "-o", "-path", "/dev", ")", "-prune", "-o", "-type", "f", "-newermt", "1 hour ago", "-print0"], capture_output=True).stdout
for name in recent.split(b"\0"):
    if name:
        look(name.decode())
print("looked at", looked, "found", sorted(set(found)))`

// TestValuesAreNowhere dumps what a guest, a thief of disks or a reader of
// logs could read after secrets have been used.
func TestValuesAreNowhere(t *testing.T) {
	t.Parallel()
	l, s := newLane(t), newSafe()
	ctx := harness.Context(t, laneLimit)
	c := l.create(ctx, t, s.config(vaultHosts()))
	c.MustShell(ctx, t, "printf 'the canary %s\n' on-disk > /home/app/canary; sync")
	out := l.play(ctx, t, c, traffic, false)
	if out.Stdout == "" || !strings.HasSuffix(out.Stdout, "used\n") {
		t.Fatalf("the secrets were not used: %+v", out)
	}
	look := newScanner(used(s))
	look.forms["canary"] = []byte("the canary on-disk")
	l.scanGuest(t, look)
	l.scanHost(t, look)
	l.scanShim(t, look)
	l.scanInside(ctx, t, c, s)
}

// used are the secrets of which traffic makes use.
func used(s *safe) map[string]string {
	return map[string]string{"KEY": s.values["KEY"], "HOOK": s.values["HOOK"]}
}

// scanGuest looks in the memory and the disk of the guest, which are the
// memory and the nameless files of its kernel's processes.
func (l *lane) scanGuest(t *testing.T, look *scanner) {
	t.Helper()
	var found []string
	var size int64
	for _, p := range l.Processes() {
		if p.Name != "runsc" && !strings.HasPrefix(p.Name, "qemu-system-") {
			continue
		}
		inMemory, a, err := look.findInMemory(p.PID)
		if err != nil && alive(p.PID) { // those of a guest's processes come and go
			t.Errorf("read the memory of %s: %v", p.Args, err)
		}
		inFiles, b, err := look.findInFiles(p.PID)
		if err != nil && alive(p.PID) {
			t.Errorf("read the files of %s: %v", p.Args, err)
		}
		found, size = append(append(found, inMemory...), inFiles...), size+a+b
	}
	t.Logf("guest: %d MiB", size>>20)
	wantOnlyCanary(t, "the guest's memory and disk", found)
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// scanHost looks in everything that the server wrote: database, state, logs,
// audit. The daemon's memory is looked at for the record only: its garbage
// collector owes nobody that a value is gone.
func (l *lane) scanHost(t *testing.T, look *scanner) {
	t.Helper()
	found, files, err := look.findIn(l.Dir)
	if err != nil {
		t.Errorf("read the server's files: %v", err)
	}
	for _, f := range found {
		t.Errorf("on the host's disk: %s", f)
	}
	if files < 5 {
		t.Errorf("the server has written %d files only", files)
	}
	left, size, err := look.findInMemory(l.PID())
	t.Logf("host: %d files; the daemon's memory, %d MiB, still has %q (%v)", files, size>>20, left, err)
}

// scanShim looks where the values have to be, so that the scanner is known to
// find them.
func (l *lane) scanShim(t *testing.T, look *scanner) {
	t.Helper()
	for _, p := range l.Processes() {
		if p.Name != "atoll-shim" {
			continue
		}
		found, size, err := look.findInMemory(p.PID)
		t.Logf("shim: %d MiB, with %q", size>>20, found)
		for _, name := range []string{"KEY", "HOOK"} {
			if !matches(found, "^"+name+" in memory") {
				t.Errorf("the shim's memory has no value of %s (%v): the scanner is blind", name, err)
			}
		}
	}
}

func (l *lane) scanInside(ctx context.Context, t *testing.T, c *harness.Conn, s *safe) {
	t.Helper()
	var list []string
	for _, value := range used(s) {
		list = append(list, masked(value))
	}
	p, err := c.Spawn(ctx, "sudo", "-n", "python3", "-c", l.constants()+inside, strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Wait(ctx)
	if err != nil || !out.Success {
		t.Fatalf("look inside: %+v %v", out, err)
	}
	t.Logf("inside: %s", out.Stdout)
	if strings.Contains(out.Stdout, "value in") || !strings.Contains(out.Stdout, "canary in /home/app/canary") {
		t.Errorf("want the canary and nothing else: %s", out.Stdout)
	}
}

// wantOnlyCanary fails the test if anything was found but the canary, or not
// even that.
func wantOnlyCanary(t *testing.T, where string, found []string) {
	t.Helper()
	seen := false
	for _, f := range found {
		if strings.HasPrefix(f, "canary") {
			seen = true
			continue
		}
		t.Errorf("%s: %s", where, f)
	}
	if !seen {
		t.Errorf("%s: not even the canary is there: %s", where, fmt.Sprint(found))
	}
}
