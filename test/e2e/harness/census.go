//go:build e2e

package harness

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
)

// Process of a server on the host.
type HostProcess struct {
	PID         int
	Name        string // of the program
	NetNS, Args string
}

// Processes are the live processes of this server, without the daemon: those
// that run its programs, and what runs in the control groups of its sandboxes.
func (s *Server) Processes() []HostProcess {
	var out []HostProcess
	inside := map[int]bool{}
	for _, group := range s.groups() {
		for _, pid := range cgroup.Open(group).PIDs() {
			inside[pid] = true
		}
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if err != nil || filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) != s.bin() && !inside[pid] {
			continue
		}
		if s.isDaemon(pid) {
			continue
		}
		ns, _ := os.Readlink(filepath.Join(dir, "ns/net"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		out = append(out, HostProcess{pid, filepath.Base(exe), ns, strings.ReplaceAll(string(args), "\x00", " ")})
	}
	return out
}

// KillMachine kills the processes of a sandbox's machine.
func (s *Server) KillMachine(id string) error {
	pids := cgroup.Open(id).PIDs()
	if len(pids) == 0 {
		return fmt.Errorf("no process in the machine of %s", id)
	}
	var err error
	for _, pid := range pids {
		if kerr := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(kerr, syscall.ESRCH) { // some end with others
			err = errors.Join(err, kerr)
		}
	}
	return err
}

func (s *Server) isDaemon(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && s.cmd.Process.Pid == pid
}

// Census is what a server occupies of its host.
type Census struct {
	Processes  map[string]int // by program
	Namespaces int            // network namespaces
	Groups     []string       // control groups of its sandboxes
	Mounts     []string       // on the host, below its directory
	Files      []string       // of sandboxes, below its data directory
	FDs        int            // of the daemon, without those of its database
	Goroutines int            // of the daemon
	HeapBytes  int            // of the daemon, alive at its last collection
}

// Count takes a census.
func (s *Server) Count(ctx context.Context) (Census, error) {
	c, spaces := Census{Processes: map[string]int{}}, map[string]bool{}
	for _, p := range s.Processes() {
		c.Processes[p.Name]++
		spaces[p.NetNS] = true
	}
	host, _ := os.Readlink("/proc/self/ns/net")
	delete(spaces, host)
	c.Namespaces = len(spaces)
	c.Groups, c.Mounts, c.Files = s.groups(), s.mounts(), s.files()
	var err error
	if c.FDs, err = s.fds(); err != nil {
		return c, err
	}
	metrics, err := s.Metrics(ctx)
	// The collector runs again when the heap has doubled. What is in use says
	// less: garbage counts, and an idle program does not collect it.
	c.Goroutines, c.HeapBytes = int(metrics["go_goroutines"]), int(metrics["go_memstats_next_gc_bytes"])/2
	return c, err
}

// fds counts the daemon's open files. Those of the database are as many as
// there were calls at once, up to a limit.
func (s *Server) fds() (n int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", s.PID())
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && !strings.HasPrefix(to, s.Data.Database()) {
			n++
		}
	}
	return n, err
}

// groups are the control groups of sandboxes that were created here, and of
// their shims.
func (s *Server) groups() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range cgroup.Leftovers() {
		if s.ids[strings.TrimSuffix(name, cgroup.ShimName(""))] {
			out = append(out, name)
		}
	}
	return out
}

func (s *Server) mounts() (out []string) {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, s.Dir) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func (s *Server) files() (out []string) {
	_ = filepath.WalkDir(s.Data.Sandboxes(), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != s.Data.Sandboxes() {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// Metrics returns the server's measurements without labels.
func (s *Server) Metrics(ctx context.Context) (map[string]float64, error) {
	status, raw, err := s.Do(ctx, http.MethodGet, "/metrics", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("read metrics: status %d: %.200s", status, raw)
	}
	out := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(string(raw))); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out, err
}

// Slack is by how much the daemon may differ after many sandboxes: connections
// that are kept alive, workers of the runtime.
type Slack struct{ FDs, Goroutines, HeapBytes int }

// Compare says what a census shows beyond another; empty is nothing. Less is
// no difference: a machine that has just started has processes that end by
// themselves.
func Compare(before, after Census, slack Slack) string {
	var out strings.Builder
	check := func(what string, b, a, slack int) {
		if a > b+slack {
			fmt.Fprintf(&out, "%s: %d before, %d after\n", what, b, a)
		}
	}
	check("open files of the daemon", before.FDs, after.FDs, slack.FDs)
	check("goroutines of the daemon", before.Goroutines, after.Goroutines, slack.Goroutines)
	check("heap of the daemon", before.HeapBytes, after.HeapBytes, slack.HeapBytes)
	check("network namespaces", before.Namespaces, after.Namespaces, 0)
	for name, n := range after.Processes {
		check("processes "+name, before.Processes[name], n, 0)
	}
	more := func(what string, b, a []string) {
		for _, item := range a {
			if !slices.Contains(b, item) {
				fmt.Fprintf(&out, "%s: %s\n", what, item)
			}
		}
	}
	more("control group", before.Groups, after.Groups)
	more("mount", before.Mounts, after.Mounts)
	more("file", before.Files, after.Files)
	return out.String()
}

// AwaitCensus waits until nothing is left over beyond before. The freeing of
// a sandbox goes on after its end was announced, in other processes: there is
// nothing to wait on.
func (s *Server) AwaitCensus(ctx context.Context, before Census, slack Slack) error {
	diff := ""
	for {
		now, err := s.Count(ctx)
		if err != nil {
			return fmt.Errorf("%w; before that: %s", err, cmp.Or(diff, "nothing"))
		}
		diff = Compare(before, now, slack)
		if diff == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not everything was freed:\n%s", diff)
		case <-time.After(10 * poll):
		}
	}
}
