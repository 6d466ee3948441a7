//go:build e2e

package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// A process with this variable takes memory until it has so many bytes or is
// ended. It begins when its standard input ends.
const hogVariable = "ATOLL_TEST_HOG"

func hog(bytes int) {
	_, _ = os.Stdin.Read(make([]byte, 1))
	p := make([]byte, bytes)
	for i := 0; i < len(p); i += 4096 {
		p[i] = 1
	}
	fmt.Println("has it all")
	os.Exit(0)
}

// hogIn runs a process in a group that takes so much memory. It reports
// whether it got it.
func hogIn(t *testing.T, g *cgroup.Group, bytes int) bool {
	t.Helper()
	cmd := exec.CommandContext(deadline(t), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", hogVariable, bytes))
	start, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Enter(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if !slices.Contains(g.PIDs(), cmd.Process.Pid) || g.Threads() == 0 {
		t.Errorf("the group has the processes %v with %d threads, not %d", g.PIDs(), g.Threads(), cmd.Process.Pid)
	}
	_ = start.Close()
	_ = cmd.Wait()
	return out.String() != ""
}

// The kernel does what a group is for.
func TestControlGroup(t *testing.T) {
	g := cgroup.Open("hog-" + time.Now().Format("150405.000000000"))
	if err := g.Create(cgroup.Limits{MemoryBytes: 64 << 20, CPUs: 1, PIDs: 100}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Remove(deadline(t)); err != nil {
			t.Error(err)
		}
		if slices.Contains(cgroup.Leftovers(), filepath.Base(g.Path())) {
			t.Error("it is still there")
		}
	}()
	if !hogIn(t, g, 16<<20) || g.OOMKills() != 0 {
		t.Errorf("a process could not have a quarter of its limit (%d were ended)", g.OOMKills())
	}
	if hogIn(t, g, 256<<20) || g.OOMKills() == 0 {
		t.Errorf("a process had four times its limit (%d were ended)", g.OOMKills())
	}
	before := g.OOMKills() // more than one on v2, where the whole group is ended
	if err := g.RaiseMemory(512 << 20); err != nil {
		t.Fatal(err)
	}
	if !hogIn(t, g, 256<<20) || g.OOMKills() != before {
		t.Errorf("a process could not have half of a raised limit (%d were ended)", g.OOMKills()-before)
	}
	if g.CPUTime() == 0 {
		t.Error("no processor time was counted")
	}
}

// version2 are the tests that are run on a kernel with control groups of
// version 2.
const version2 = `^(TestControlGroup|TestGvisorConformance)$/^(AgentAnswers|CrashIsReported|StopPaused|SaveAndEnd)$`

// Where this host has control groups of version 1, those of version 2 are had
// from the kernel of a microVM, which makes it a host of gVisor machines.
func TestControlGroupsOfVersion2(t *testing.T) {
	if cgroup.Version() == "v2" {
		t.Skip("this host has no others")
	}
	const minutes = 15 // where microVMs are emulated
	defer func(d time.Duration) { harness.Patience = d }(harness.Patience)
	harness.Patience *= 5
	s := harness.New(t, "--isolation", "microvm")
	ctx := harness.Context(t, minutes*time.Minute)
	c := s.MustCreate(ctx, t, map[string]any{"timeout": fmt.Sprint(minutes, "m")})
	host := "/home/app/"
	upload(ctx, t, s, c.ID+":"+host, os.Args[0], s.Program("atoll-agent"), s.Program("runsc"))
	c.MustShell(ctx, t, `sudo modprobe tun && sudo cp /dev/vda /srv/image && test "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs`)
	out, err := c.Shell(ctx, fmt.Sprintf("sudo ATOLL_TEST_BIN=%s ATOLL_TEST_IMAGE=/srv/image ./%s -test.v -test.run '%s' 2>&1", host, filepath.Base(os.Args[0]), version2))
	if err != nil {
		t.Fatal(err)
	}
	passed := regexp.MustCompile(`(?m)^ *--- PASS: \S+`).FindAllString(out.Stdout, -1)
	if out.Code != 0 || len(passed) != 2+4 || strings.Contains(out.Stdout, "--- SKIP") {
		t.Errorf("%+v, %d passed:\n%s", out.ProcessStatus, len(passed), out.Stdout)
	}
	if left := c.MustShell(ctx, t, "ls -d /sys/fs/cgroup/atoll* || true"); left != "" {
		t.Errorf("control groups are left: %s", left)
	}
}

func upload(ctx context.Context, t *testing.T, s *harness.Server, to string, files ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, s.Program("atoll"), append(append([]string{"cp"}, files...), to)...)
	cmd.Env = append(os.Environ(), s.Environ()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("upload: %v: %s", err, out)
	}
}
