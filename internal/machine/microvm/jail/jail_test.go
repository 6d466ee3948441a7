package jail

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// The program starts in namespaces of its own, dies with its parent, and has
// the files in their order, with the configuration behind them.
func TestCommand(t *testing.T) {
	a, b := pipe(t)
	cmd, control, err := Command("/program", []*os.File{a, b})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = control.Close() }()
	defer func() { _ = cmd.ExtraFiles[2].Close() }()
	if diff := cmp.Diff([]string{Name, "5"}, cmd.Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if len(cmd.ExtraFiles) != 3 || cmd.ExtraFiles[0] != a || cmd.ExtraFiles[1] != b {
		t.Errorf("files %v", cmd.ExtraFiles)
	}
	attr := cmd.SysProcAttr
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if attr.Cloneflags != namespaces || attr.Pdeathsig != syscall.SIGKILL || !attr.Setsid {
		t.Errorf("attributes %+v", attr)
	}
	if cmd.Dir != "/" || len(cmd.Env) != 1 || !strings.HasPrefix(cmd.Env[0], "PATH=") {
		t.Errorf("directory %q, environment %q", cmd.Dir, cmd.Env)
	}
	want := Config{Root: "/root", UID: 7, MaxFile: 9, Program: "/p", Args: []string{"a"}, Mounts: []Mount{{Source: "/s", Target: "/t", Write: true}},
		Devices: []Device{{Name: "null", Major: 1, Minor: 3}}}
	if err := Send(control, want); err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.NewDecoder(cmd.ExtraFiles[2]).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// Main does nothing without a whole configuration: in these cases this very
// process would have become the jail.
func TestMainRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {""}, {"x"}, {"2"}, {"-3"}, {"3", "4"}} {
		if err := Main(args); err == nil || !strings.HasPrefix(err.Error(), "jail: ") {
			t.Errorf("arguments %q: %v", args, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "half": `{"root":"/x","uid":1`, "another type": `{"uid":"0"}`,
		"too much": `{"root":"` + strings.Repeat("x", maxConfig) + `"}`,
	} {
		r, w := pipe(t)
		go func() {
			_, _ = io.Copy(w, strings.NewReader(text))
			_ = w.Close()
		}()
		fd, err := unix.Dup(int(r.Fd())) // Main takes it over
		if err != nil {
			t.Fatal(err)
		}
		if err := Main([]string{fmt.Sprint(fd)}); err == nil || !strings.Contains(err.Error(), "read configuration") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrphaned(t *testing.T) {
	r, w := pipe(t)
	if orphaned(int(r.Fd())) {
		t.Error("the parent is there")
	}
	_, _ = w.Write([]byte("{}"))
	_ = w.Close()
	if !orphaned(int(r.Fd())) {
		t.Error("the parent is gone")
	}
}

// A link of the host's is a link in the jail, not what it leads to on the
// host.
func TestLinksStayLinks(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := (Mount{Source: filepath.Join(dir, "lib"), Target: "/lib"}).mount(root); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(root, "lib")); err != nil || to != "usr/lib" {
		t.Errorf("it leads to %q (%v)", to, err)
	}
	if err := (Mount{Source: filepath.Join(dir, "absent"), Target: "/x"}).mount(root); err == nil {
		t.Error("mounted what is not there")
	}
}
