//go:build e2e

package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/cgroup"
)

// about reads a file of QEMU's in /proc.
func (v *vm) about(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", v.qemu, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// descriptors are what a QEMU that runs may have open.
var descriptors = regexp.MustCompile(`^(socket:\[\d+\]|pipe:\[\d+\]|anon_inode:.*|/dev/null|/dev/kvm|/memfd:atoll-memory \(deleted\)|/.*\.erofs|/work/disk0\.raw)$`)

// QEMU has what it needs to run its guest, and no more.
func TestJailOfQEMU(t *testing.T) {
	v, other := startVM(t, unread(t)), startVM(t, unread(t))

	status := map[string]string{}
	for line := range strings.Lines(v.about(t, "status")) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	const none = "0000000000000000"
	for name, want := range map[string]string{
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "Groups": "",
	} {
		if status[name] != want {
			t.Errorf("%s is %q; want %q", name, status[name], want)
		}
	}
	uid := strings.Fields(status["Uid"])[0]
	if uid == "0" || status["Uid"] != strings.Repeat(uid+" ", 3)+uid || status["Gid"] != status["Uid"] {
		t.Errorf("users %q, groups %q", status["Uid"], status["Gid"])
	}
	if strings.Contains(other.about(t, "status"), "\nUid:\t"+uid+"\t") {
		t.Errorf("two machines are user %s", uid)
	}

	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		seen := map[string]bool{}
		for _, process := range []string{"self", fmt.Sprint(v.qemu), fmt.Sprint(other.qemu)} {
			space, err := os.Readlink("/proc/" + process + "/ns/" + kind)
			if err != nil || seen[space] {
				t.Errorf("%s of %s is shared: %s (%v)", kind, process, space, err)
			}
			seen[space] = true
		}
	}

	v.rootHasOnly(t, "dev", "etc", "lib", "lib64", "proc", "usr", "work")
	v.dirHasOnly(t, "etc", "ld.so.cache")
	v.dirHasOnly(t, "dev", "null", "urandom", "kvm")
	v.dirHasOnly(t, "work", "disk0.raw")
	v.mountsAreReadOnly(t)

	if devices := strings.Split(strings.TrimSpace(v.about(t, "net/dev")), "\n"); len(devices) != 3 || !strings.Contains(devices[2], " lo:") {
		t.Errorf("network devices %q", devices)
	}
	if addresses := v.about(t, "net/if_inet6"); addresses != "" { // one that is up has one
		t.Errorf("addresses %q", addresses)
	}
	for _, limit := range []string{`Max core file size +0 +0 `, `Max file size +(\d+) +\d+ `} {
		if limits := v.about(t, "limits"); !regexp.MustCompile(limit).MatchString(limits) {
			t.Errorf("limits: %s", limits)
		}
	}
	if groups := v.about(t, "cgroup"); !strings.Contains(groups, "/"+cgroup.Parent+"/"+v.spec.ID+"\n") {
		t.Errorf("control groups: %s", groups)
	}
	if environment := v.about(t, "environ"); strings.Count(environment, "\x00") != 1 || !strings.HasPrefix(environment, "PATH=") {
		t.Errorf("environment %q", environment)
	}
	v.hasOnly(t, descriptors)
	v.memoryIsSealed(t)
}

// rootHasOnly checks what is in QEMU's root.
func (v *vm) rootHasOnly(t *testing.T, names ...string) {
	t.Helper()
	v.dirHasOnly(t, "", names...)
}

func (v *vm) dirHasOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/%s", v.qemu, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !slices.Contains(names, entry.Name()) {
			t.Errorf("/%s/%s is in the jail", dir, entry.Name())
		}
	}
}

// mountsAreReadOnly checks that QEMU can write to its work directory alone,
// and gain nothing from what it finds.
func (v *vm) mountsAreReadOnly(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(v.about(t, "mountinfo")) {
		fields := strings.Fields(line) // id parent device root target options …
		target, options := fields[4], strings.Split(fields[5], ",")
		if !slices.Contains(options, "nosuid") {
			t.Errorf("%s has setuid programs: %v", target, options)
		}
		if writable := target == "/work" || target == "/proc"; writable == slices.Contains(options, "ro") {
			t.Errorf("%s has options %v", target, options)
		}
		if target != "/" && !slices.Contains(options, "nodev") {
			t.Errorf("%s has devices: %v", target, options)
		}
	}
	// The directory itself is not QEMU's: a name that the host reads is the
	// host's.
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(v.spec.Dir, "work"), &st); err != nil || st.Uid != 0 || st.Mode&0o022 != 0 {
		t.Errorf("the work directory is %d's, %o (%v)", st.Uid, st.Mode, err)
	}
}

// hasOnly checks QEMU's open files.
func (v *vm) hasOnly(t *testing.T, allowed *regexp.Regexp) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", v.qemu)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if to, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && !allowed.MatchString(to) {
			t.Errorf("QEMU has %s open as %s", to, entry.Name())
		}
	}
}

// memoryIsSealed checks that nobody, root included, can change a template
// through a machine's descriptor of it.
func (v *vm) memoryIsSealed(t *testing.T) {
	t.Helper()
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.qemu))
	found := false
	for _, path := range paths {
		if to, _ := os.Readlink(path); !strings.HasPrefix(to, "/memfd:") {
			continue
		}
		found = true
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		if _, err := file.WriteAt([]byte("x"), 0); err == nil {
			t.Error("wrote to a template")
		}
		if err := file.Truncate(0); err == nil {
			t.Error("cut a template short")
		}
		if _, err := unix.Mmap(int(file.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			t.Error("mapped a template for writing")
		}
		if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
			t.Error("its seals can be changed")
		}
	}
	if !found {
		t.Error("no memory is shared: this tests nothing")
	}
}
