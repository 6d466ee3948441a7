//go:build e2e

package machine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

// A process with these variables is not a test but a server that makes a
// template in a directory, to be killed.
const (
	makerVariable       = "ATOLL_TEST_TEMPLATE_MAKER"  // the directory
	makerMemoryVariable = "ATOLL_TEST_TEMPLATE_MEMORY" // bytes
)

// oddMemory is of templates that only one test makes: they are named by what
// is in them.
func oddMemory(n int64) int64 { return 256<<20 + 2<<20*n }

func newTemplates(t *testing.T, d *microvm.Driver, dir string, log io.Writer) *microvm.Templates {
	t.Helper()
	made, err := microvm.NewTemplates(dir, d, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// building awaits the QEMU of a template that is being made and returns its
// process id and the name of its control group.
func building(t *testing.T, dir string) (pid int, group string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		builds, _ := filepath.Glob(filepath.Join(dir, ".build-*"))
		for _, build := range builds {
			for _, group := range groupsOf(strings.TrimPrefix(filepath.Base(build), ".build-")) {
				if pids := cgroup.Open(group).PIDs(); len(pids) > 0 {
					return pids[0], group
				}
			}
		}
	}
	t.Fatal("no template is being made")
	return 0, ""
}

// groupsOf are the control groups of machines that become a template.
func groupsOf(key string) []string {
	return slices.DeleteFunc(cgroup.Leftovers(), func(name string) bool { return !strings.HasPrefix(name, "template-"+key+"-") })
}

// onlyTemplates checks that a directory has finished templates and nothing
// else.
func onlyTemplates(t *testing.T, dir string, number int) {
	t.Helper()
	list, err := microvm.ListTemplates(dir)
	entries, _ := os.ReadDir(dir)
	if err != nil || len(list) != number || len(entries) != number {
		t.Errorf("%d templates, %v (%v)", len(list), entries, err)
	}
	for _, m := range list {
		for _, group := range groupsOf(m.Key) {
			t.Errorf("the control group %s is left", group)
		}
	}
}

// starts checks that a machine starts from a template, and from nothing else.
func starts(t *testing.T, s machine.Spec, from *machine.Snapshot) {
	t.Helper()
	d, log := vmDriver(t)
	s.Template = from
	v := beginVM(t, d, log, s)
	v.survives(t)
	if log.String() != "" {
		t.Errorf("the driver logs: %s", log)
	}
}

// A template whose QEMU dies is made in another try.
func TestTemplateOfAKilledQEMU(t *testing.T) {
	d, log := vmDriver(t)
	dir := t.TempDir()
	made := newTemplates(t, d, dir, log)
	s := vmSpec(t, unread(t))
	s.MemoryBytes = oddMemory(1)
	got := make(chan *machine.Snapshot, 1)
	go func() {
		snapshot, err := made.Get(t.Context(), s)
		if err != nil {
			t.Error(err)
		}
		got <- snapshot
	}()
	pid, _ := building(t, dir)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if snapshot := <-got; snapshot != nil {
		starts(t, s, snapshot)
	}
	onlyTemplates(t, dir, 1)
}

// maker is a process that makes a template and says so.
func maker(dir string) {
	bin, image := os.Getenv("ATOLL_TEST_BIN"), os.Getenv("ATOLL_TEST_IMAGE")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err == nil {
		accel, _ := microvm.Accelerate()
		base := strings.TrimSuffix(image, ".erofs")
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		d := microvm.New(microvm.Config{QEMU: qemu, Jail: filepath.Join(bin, "atoll-shim"), Accel: accel, Log: log})
		s := machine.Spec{
			Image: machine.Image{File: image, Kernel: base + ".vmlinuz", Modules: base + ".modules"},
			Agent: filepath.Join(bin, "atoll-agent"), CPUs: 2, DiskBytes: 1 << 30, Network: network(),
		}
		_, _ = fmt.Sscan(os.Getenv(makerMemoryVariable), &s.MemoryBytes)
		var made *microvm.Templates
		if made, err = microvm.NewTemplates(dir, d, log); err == nil {
			_, err = made.Get(context.Background(), s)
		}
	}
	fmt.Println("made", err)
	os.Exit(0)
}

// What a killed server leaves of a template goes when the next one begins.
func TestTemplateOfAKilledServer(t *testing.T) {
	d, log := vmDriver(t)
	dir := t.TempDir()
	s := vmSpec(t, unread(t))
	s.MemoryBytes = oddMemory(2)
	server := exec.CommandContext(deadline(t), os.Args[0])
	server.Env = append(os.Environ(), makerVariable+"="+dir, fmt.Sprintf("%s=%d", makerMemoryVariable, s.MemoryBytes))
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	pid, group := building(t, dir)
	_ = server.Process.Kill()
	line, _ := bufio.NewReader(out).ReadString('\n')
	_ = server.Wait()
	if line != "" {
		t.Fatalf("the server was too fast: %q", line)
	}
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("QEMU outlived its server")
		}
	}
	made := newTemplates(t, d, dir, log)
	onlyTemplates(t, dir, 0)
	if slices.Contains(cgroup.Leftovers(), group) {
		t.Errorf("the control group %s is left", group)
	}
	snapshot, err := made.Get(deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	starts(t, s, snapshot)
	onlyTemplates(t, dir, 1)
}

// change changes the middle of a file, where it has one.
func change(path string, flip bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !flip {
		return os.Truncate(path, info.Size()/2)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = file.WriteAt(b, info.Size()/2)
	return err
}

// A template that is not what was saved is made anew.
func TestDamagedTemplatesAreMadeAgain(t *testing.T) {
	d, _ := vmDriver(t)
	dir := t.TempDir()
	s := vmSpec(t, unread(t))
	s.MemoryBytes = oddMemory(3)
	made := newTemplates(t, d, dir, io.Discard)
	if _, err := made.Get(deadline(t), s); err != nil {
		t.Fatal(err)
	}
	_ = made.Close()
	for _, damage := range []struct {
		file string
		flip bool
	}{{"memory", true}, {"template.json", false}} { // the rest are unit tests
		list, err := microvm.ListTemplates(dir)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d templates (%v)", len(list), err)
		}
		if err := change(filepath.Join(dir, list[0].Key, damage.file), damage.flip); err != nil {
			t.Fatal(err)
		}
		log := &journal{}
		again := newTemplates(t, d, dir, log)
		snapshot, err := again.Get(deadline(t), s)
		if err != nil {
			t.Fatalf("%+v: %v", damage, err)
		}
		if !strings.Contains(log.String(), "made a template") || !strings.Contains(log.String(), "of no use") {
			t.Errorf("%+v: it is logged: %s", damage, log)
		}
		if damage.file == "memory" && damage.flip { // one stands for all
			s.Dir = filepath.Join(t.TempDir(), "machine")
			if err := os.Mkdir(s.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			starts(t, s, snapshot)
		}
		_ = again.Close()
	}
	onlyTemplates(t, dir, 1)
}

// A machine whose template is broken boots, and says so.
func TestBrokenTemplateIsNotNeeded(t *testing.T) {
	d, _ := vmDriver(t)
	good := template(t, d, vmSpec(t, unread(t)))
	state, err := os.ReadFile(filepath.Join(good.Dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]machine.Snapshot{
		"half a state": {Driver: good.Driver, Dir: withState(t, state[:len(state)/2]), Memory: good.Memory},
		"other memory": {Driver: good.Driver, Dir: good.Dir, Memory: "/proc/self/exe"},
	} {
		t.Run(name, func(t *testing.T) {
			d, log := vmDriver(t)
			s := vmSpec(t, unread(t))
			s.Template = &broken
			m, err := d.Start(deadline(t), s)
			if err != nil {
				t.Fatal(err)
			}
			v := newVM(t, d, log, s, m)
			if err := link.Probe(deadline(t), v.m.Link()); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), "level=WARN") {
				t.Errorf("it is logged: %q", log)
			}
		})
	}
}

func withState(t *testing.T, state []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
