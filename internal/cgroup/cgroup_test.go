package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSettings(t *testing.T) {
	limits := Limits{MemoryBytes: 1 << 30, CPUs: 2, PIDs: 100}
	got := map[string]string{}
	for _, s := range v2Settings(limits) {
		got["v2 "+s.file] = s.value
	}
	for _, controller := range v1Limited {
		for _, s := range v1Settings(controller, limits) {
			got["v1 "+s.file] = s.value
		}
	}
	want := map[string]string{
		"v2 memory.max": "1073741824", "v2 memory.swap.max": "0", "v2 memory.oom.group": "1",
		"v2 cpu.max": "200000 100000", "v2 pids.max": "100",
		"v1 memory.limit_in_bytes": "1073741824", "v1 memory.memsw.limit_in_bytes": "1073741824",
		"v1 cpu.cfs_period_us": "100000", "v1 cpu.cfs_quota_us": "200000", "v1 pids.max": "100",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if n := len(v2Settings(Limits{})); n != 0 {
		t.Errorf("no limits make %d settings", n)
	}
}

// put writes a file of a stand-in hierarchy.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadings(t *testing.T) {
	for _, c := range []struct {
		version string
		v2      bool
		files   map[string]string
	}{
		{"v1", false, map[string]string{
			"memory/atoll/x/memory.oom_control":    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
			"memory/atoll/x/memory.usage_in_bytes": "4096\n",
			"memory/atoll/x/cgroup.procs":          "11\n12\n",
			"cpuacct/atoll/x/cpuacct.usage":        "5000000\n",
			"pids/atoll/x/pids.current":            "7\n",
		}},
		{"v2", true, map[string]string{
			"atoll/x/memory.events":  "low 0\noom 1\noom_kill 3\n",
			"atoll/x/memory.current": "4096\n",
			"atoll/x/cgroup.procs":   "11\n12\n",
			"atoll/x/cpu.stat":       "usage_usec 5000\nuser_usec 1\n",
			"atoll/x/pids.current":   "7\n",
		}},
	} {
		root := t.TempDir()
		for file, content := range c.files {
			put(t, filepath.Join(root, file), content)
		}
		g := open(root, "x", c.v2)
		memory, err := g.MemoryBytes()
		if err != nil || memory != 4096 || g.OOMKills() != 3 || g.CPUTime() != 5*time.Millisecond || g.Threads() != 7 {
			t.Errorf("%s: memory %d (%v), oom kills %d, cpu %v, threads %d", c.version, memory, err, g.OOMKills(), g.CPUTime(), g.Threads())
		}
		if diff := cmp.Diff([]int{11, 12}, g.PIDs()); diff != "" {
			t.Errorf("%s: pids (-want +got):\n%s", c.version, diff)
		}
		if diff := cmp.Diff([]string{"x"}, leftovers(root, c.v2)); diff != "" {
			t.Errorf("%s: leftovers (-want +got):\n%s", c.version, diff)
		}
	}
}

func TestGoneGroup(t *testing.T) {
	g := open(t.TempDir(), "gone", true)
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("remove: %v", err)
	}
	if g.OOMKills() != 0 || len(g.PIDs()) != 0 {
		t.Error("a group that is gone has readings")
	}
}

// A group that cannot be removed is an error when the time is up, not a hang.
func TestRemoveGivesUp(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "atoll/x/keep"), "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := open(root, "x", true).Remove(ctx); err == nil || !strings.Contains(err.Error(), "atoll/x") {
		t.Errorf("remove: %v", err)
	}
}

func TestEnter(t *testing.T) {
	for _, c := range []struct {
		v2    bool
		procs []string
	}{
		{false, []string{"memory/atoll/x.shim/cgroup.procs", "cpu/atoll/x.shim/cgroup.procs", "pids/atoll/x.shim/cgroup.procs"}},
		{true, []string{"atoll/x.shim/cgroup.procs"}},
	} {
		root := t.TempDir()
		g := open(root, ShimName("x"), c.v2)
		if err := g.Enter(7); err == nil {
			t.Error("entered a group that does not exist")
		}
		for _, file := range c.procs {
			put(t, filepath.Join(root, file), "")
		}
		if err := g.Enter(7); err != nil {
			t.Fatal(err)
		}
		for _, file := range c.procs {
			if raw, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(raw) != "7" {
				t.Errorf("%s holds %q (%v)", file, raw, err)
			}
		}
	}
}

func TestParentGoesWhenItIsEmpty(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		root := t.TempDir()
		parent := filepath.Join(root, "memory", Parent)
		if v2 {
			parent = filepath.Join(root, Parent)
		}
		group := filepath.Join(parent, "x")
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		removeParent(root, v2)
		if _, err := os.Stat(group); err != nil {
			t.Errorf("v2 %v: a parent with a group was removed: %v", v2, err)
		}
		if err := os.Remove(group); err != nil {
			t.Fatal(err)
		}
		removeParent(root, v2)
		if _, err := os.Stat(parent); !os.IsNotExist(err) {
			t.Errorf("v2 %v: the empty parent is still there (%v)", v2, err)
		}
	}
}

func TestRaiseMemory(t *testing.T) {
	for version, c := range map[string]struct {
		v2      bool
		dir     string
		files   []string
		private string
	}{
		"v1": {false, "memory/atoll/x", []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}, "rss"},
		"v2": {true, "atoll/x", []string{"memory.max"}, "anon"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, c.dir)
		for _, file := range append(c.files, "memory.swap.max", "memory.oom.group") {
			put(t, filepath.Join(dir, file), "1000\n")
		}
		put(t, filepath.Join(dir, "memory.stat"), "cache 12288\n"+c.private+" 4096\nshmem 8192\nshmem_thp 1\n")
		g := open(root, "x", c.v2)
		if got := g.SharedBytes(); got != 8192 {
			t.Errorf("%s: %d bytes are shared", version, got)
		}
		if got := g.PrivateBytes(); got != 4096 {
			t.Errorf("%s: %d bytes are private", version, got)
		}
		for _, step := range []struct{ to, want int64 }{{5000, 5000}, {2000, 5000}, {6000, 6000}} {
			if err := g.RaiseMemory(step.to); err != nil {
				t.Fatalf("%s: %v", version, err)
			}
			for _, file := range c.files {
				if got, err := readInt(filepath.Join(dir, file)); err != nil || got != step.want {
					t.Errorf("%s: raised to %d, %s is %d (%v)", version, step.to, file, got, err)
				}
			}
		}
		if err := open(t.TempDir(), "gone", c.v2).RaiseMemory(1); err == nil {
			t.Errorf("%s: raised the limit of nothing", version)
		}
	}
}
