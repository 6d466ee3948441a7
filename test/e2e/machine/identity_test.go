//go:build e2e

package machine

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/machine"
)

// who prints what must be each machine's own, of which no two may agree: a
// line each, behind its name.
const who = `
echo "device $(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"
echo "call $(python3 -c 'import os; print(os.getrandom(32).hex())')"
echo "uuid $(python3 -c 'import uuid; print(uuid.uuid4())')"
echo "kernel $(cat /proc/sys/kernel/random/uuid)"
echo "machine-id $(cat /etc/machine-id)"
echo "boot-id $(cat /proc/sys/kernel/random/boot_id)"
echo "identity $(cat /run/atoll/identity.json)"
`

// Machines from one template, and machines that continue from one saved
// machine, agree on nothing that must differ, and know what time it is.
func TestEachMachineIsItself(t *testing.T) {
	parent, stranger := startVM(t, unread(t)), startVM(t, unread(t))
	// What draws random bytes beforehand must not draw the same ones later.
	parent.do(t, who)
	saved, err := parent.m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: t.TempDir(), Leave: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = saved.Close() }()
	parent.late += saved.StoodStill // nobody has told it the time since
	machines := map[string]*vm{
		"parent": parent, "stranger": stranger, "child": becomeVM(t, parent, saved), "other child": becomeVM(t, parent, saved),
	}
	seen := map[string]string{}
	for name, v := range machines {
		lines := strings.Split(v.says(t, who), "\n")
		if len(lines) != strings.Count(who, "echo") {
			t.Fatalf("%s says %q", name, lines)
		}
		for _, line := range lines {
			if before, again := seen[line]; again || strings.HasSuffix(line, " ") {
				t.Errorf("%s says as %q does: %q", name, before, line)
			}
			seen[line] = name
		}
	}
	for name, v := range machines {
		if host := v.says(t, "hostname"); host != v.spec.Hostname {
			t.Errorf("%s has the host name %q", name, host)
		}
		if id := v.read(t, "/run/atoll/identity.json"); !strings.Contains(id, `"`+v.spec.ID+`"`) {
			t.Errorf("%s is %s", name, id)
		}
		v.knowsTheTime(t)
	}
}

// knowsTheTime compares the guest's clock with the host's, which is read
// before and after. A guest that was told late is late by as much.
func (v *vm) knowsTheTime(t *testing.T) {
	t.Helper()
	const allowed = 2 * time.Second
	before := time.Now()
	seconds, err := strconv.ParseFloat(v.says(t, "date +%s.%N"), 64)
	if err != nil {
		t.Fatal(err)
	}
	guest := time.UnixMicro(int64(seconds * 1e6))
	if after := time.Now(); guest.Before(before.Add(-allowed-v.late)) || guest.After(after.Add(allowed)) {
		t.Errorf("the guest's clock is at %v, between %v and %v", guest, before, after)
	}
}
