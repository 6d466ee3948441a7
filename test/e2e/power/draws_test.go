//go:build e2e

package power

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/test/e2e/harness"
)

//go:embed testdata/draws.py
var drawsProgram string

// recorders draw at the same time: one for each processor.
const recorders = 2

// startDraws starts the recorders. Where the guest has a kernel of its own, the
// last one is in a control group of the guest's, like a container.
func startDraws(ctx context.Context, t *testing.T, c *harness.Conn) {
	t.Helper()
	c.MustShell(ctx, t, "cat >draws.py <<'E'\n"+drawsProgram+"\nE")
	for i := range recorders {
		command := fmt.Sprintf("python3 draws.py draws-%d", i)
		if ownKernel() && i == recorders-1 {
			command = fmt.Sprintf(`sudo sh -c "mkdir -p %[1]s && echo $BASHPID >%[1]s/cgroup.procs" && exec %s`, groups+"/mine/below", command)
		}
		c.MustShell(ctx, t, fmt.Sprintf("(%s) </dev/null >log-%d 2>&1 &", command, i))
	}
	awaitDraws(ctx, t, c, c.ID)
}

// groups is the root of the guest's control groups.
const groups = "/sys/fs/cgroup"

// ownKernel reports whether the guest has one, and with it random numbers that
// are in its memory.
func ownKernel() bool { return harness.Isolation() == microvm.Name }

// awaitDraws waits until the last records of all recorders say who they are of.
func awaitDraws(ctx context.Context, t *testing.T, c *harness.Conn, id string) {
	t.Helper()
	const enough = 100
	for i := range recorders {
		c.MustShell(ctx, t, fmt.Sprintf(`until [ "$(tail -n %d draws-%d | grep -c %s)" -eq %[1]d ]; do sleep 0.1; done`, enough, i, id))
	}
}

// draw is one record.
type draw struct{ began, who, bytes string }

// stopDraws ends the recorders when they have written down enough, and reads
// what it was.
func stopDraws(ctx context.Context, t *testing.T, c *harness.Conn) (all [recorders][]draw) {
	t.Helper()
	awaitDraws(ctx, t, c, c.ID)
	c.MustShell(ctx, t, "touch stop; while pgrep -x python3; do sleep 0.1; done")
	for i := range all {
		for line := range strings.Lines(c.MustShell(ctx, t, fmt.Sprintf("cat draws-%d", i))) {
			f := strings.Fields(line)
			if len(f) != 4 || f[0] != strconv.Itoa(len(all[i])) {
				t.Fatalf("record %d is %q", len(all[i]), line)
			}
			all[i] = append(all[i], draw{f[1], f[2], f[3]})
		}
	}
	return all
}

// forkDraws forks a sandbox whose recorders run, and returns what was drawn in
// it and in its children.
func forkDraws(ctx context.Context, t *testing.T, s *harness.Server, c *harness.Conn) (parent [recorders][]draw, children map[string][recorders][]draw) {
	t.Helper()
	count := 2
	children = map[string][recorders][]draw{}
	for _, child := range post[[]api.Sandbox](ctx, t, s, c.ID, "fork", api.ForkRequest{Count: &count}) {
		children[child.ID] = stopDraws(ctx, t, s.MustConnect(ctx, t, child.ID))
	}
	return stopDraws(ctx, t, c), children
}

// common is how many records two machines began when they were still one.
func common(a, b []draw) int {
	n := 0
	for n < min(len(a), len(b)) && a[n].began == b[n].began {
		n++
	}
	return n
}

// wantApart checks what was drawn since two machines are two: nothing in both,
// and in a child with a kernel of its own, nothing before it knew its name.
func wantApart(t *testing.T, parent [recorders][]draw, children map[string][recorders][]draw) {
	t.Helper()
	drawn, twice := map[string]bool{}, 0
	note := func(draws []draw) {
		for _, d := range draws {
			if drawn[d.bytes] {
				twice++
			}
			drawn[d.bytes] = true
		}
	}
	for i := range recorders {
		first := len(parent[i])
		for id, child := range children {
			since := common(parent[i], child[i])
			t.Logf("recorder %d of %s: %d records, the first %d of its parent", i, id, len(child[i]), since)
			if since == 0 {
				t.Errorf("the child has nothing of its parent's")
			}
			first = min(first, since)
			note(child[i][since:])
			early := 0
			for _, d := range child[i][since:] {
				if d.who != id {
					early++
				}
			}
			if ownKernel() && early > 0 {
				t.Errorf("%d records of the child were written when it took itself for its parent", early)
			}
		}
		note(parent[i][first:])
	}
	if twice > 0 {
		t.Errorf("%d of %d draws were drawn before", twice, len(drawn)+twice)
	}
}

// TestForksDrawApart: a process that does nothing but draw random numbers.
func TestForksDrawApart(t *testing.T) {
	s := harness.New(t)
	for _, paused := range []bool{false, true} {
		t.Run(map[bool]string{false: "running", true: "paused"}[paused], func(t *testing.T) {
			ctx := harness.Context(t, 2*harness.TestLimit)
			c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
			startDraws(ctx, t, c)
			if paused {
				post[api.PauseResult](ctx, t, s, c.ID, "pause", nil)
			}
			parent, children := forkDraws(ctx, t, s, c)
			wantApart(t, parent, children)
		})
	}
}

// evacuate is what container runtimes do where they find themselves in the
// root of the control groups, which they may mount anew: everything is moved
// from there, the agent too, so that controllers can be used. The same is done
// one level below.
const evacuate = `set -e
umount ` + groups + `
mount -t cgroup2 mine ` + groups + `
cd ` + groups + `
mkdir init sandbox/leaf held
for p in $(cat cgroup.procs); do echo $p >init/cgroup.procs || true; done
echo +pids +memory >cgroup.subtree_control
for p in $(cat sandbox/cgroup.procs); do echo $p >sandbox/leaf/cgroup.procs || true; done
echo +memory >sandbox/cgroup.subtree_control
echo 1 >held/cgroup.freeze
`

// TestForkWithGroupsOfItsOwn: what the guest does with control groups neither
// keeps processes from being started nor lets them run too early.
func TestForkWithGroupsOfItsOwn(t *testing.T) {
	if !ownKernel() {
		t.Skip("the guest has no control groups of version 2")
	}
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	c.MustShell(ctx, t, "sudo bash -c '"+evacuate+"' 2>/dev/null")
	if got := c.MustShell(ctx, t, "cat /proc/1/cgroup"); got != "0::/init\n" {
		t.Errorf("the agent is in %q", got)
	}
	if got := c.MustShell(ctx, t, "cat /proc/self/cgroup"); got != "0::/sandbox-2\n" {
		t.Errorf("processes are born in %q", got)
	}
	startDraws(ctx, t, c)
	parent, children := forkDraws(ctx, t, s, c)
	wantApart(t, parent, children)
	for id := range children {
		if got := s.MustConnect(ctx, t, id).MustShell(ctx, t, "cat "+groups+"/held/cgroup.freeze"); got != "1\n" {
			t.Errorf("what the guest has frozen itself is %q", got)
		}
	}
}

// thawAll is root's, in the one group that can't be frozen, and lets all others
// go on again and again.
const thawAll = `echo $BASHPID >` + groups + `/cgroup.procs
while :; do echo 0 >` + groups + `/sandbox/cgroup.freeze; done`

// TestForkOfGuestThatThaws: it harms itself, if anybody. The fork comes to an
// end, and parent and child run.
func TestForkOfGuestThatThaws(t *testing.T) {
	if !ownKernel() {
		t.Skip("the guest has no control groups of version 2")
	}
	s := harness.New(t)
	ctx := harness.Context(t, 2*harness.TestLimit)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": "10m"})
	c.MustShell(ctx, t, "sudo bash -c '"+thawAll+"' </dev/null >/dev/null 2>&1 &")
	startCounter(ctx, t, c)
	before := counter(ctx, t, c)
	for _, child := range post[[]api.Sandbox](ctx, t, s, c.ID, "fork", nil) {
		wantCounting(ctx, t, s.MustConnect(ctx, t, child.ID), before)
	}
	wantCounting(ctx, t, c, before)
}
