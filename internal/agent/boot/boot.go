// Package boot is what an agent does that is the first program of a machine
// with a kernel of its own: it runs from the initramfs, where there is nothing
// but it and the kernel's modules.
//
// It happens in two steps, because a machine may be saved between them and
// started from there many times: Early brings up what is the same in every
// machine, up to the port that is the link. Root, when the machine has been
// told who it is, mounts the disks, makes them the root, and configures the
// network card.
package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/link"
)

// modulesDir holds the kernel's modules in the initramfs. Their names order
// them: "NN-name.ko".
const modulesDir = "/modules"

// diskModules see the disks when they are loaded: a disk's size must not be in
// a saved machine, whose clones have other disks.
var diskModules = []string{"virtio_blk"}

// devicePatience is how long a device may take to appear.
const devicePatience = 20 * time.Second

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

const (
	noSpecial = unix.MS_NOSUID | unix.MS_NODEV
	noFiles   = noSpecial | unix.MS_NOEXEC
)

// kernelMounts are what the kernel shows of itself.
var kernelMounts = []mount{
	{"proc", "/proc", "proc", noFiles, ""},
	{"sysfs", "/sys", "sysfs", noFiles, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
}

// systemMounts complete the root.
var systemMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
	{"shm", "/dev/shm", "tmpfs", noSpecial, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", noSpecial, "mode=755"},
	{"cgroup2", ControlGroups, "cgroup2", noFiles, ""},
}

// ControlGroups is where the root of the control groups is mounted.
const ControlGroups = "/sys/fs/cgroup"

// deviceLinks are what programs expect in /dev beside devices.
var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

// settings are the kernel's. The network is the guest's own: no port and no
// echo request in it needs root, as with gVisor
// (https://docs.kernel.org/networking/ip-sysctl.html).
var settings = map[string]string{
	"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
	"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
}

// openFiles bounds the open files of each process, as with gVisor.
var openFiles = syscall.Rlimit{Cur: 65536, Max: 1 << 20}

// Early mounts the kernel's file systems and loads the modules that need no
// disk.
func Early() error {
	for _, m := range kernelMounts {
		if err := m.mount(""); err != nil {
			return err
		}
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("complete /dev: %w", err)
		}
	}
	for file, value := range settings {
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return fmt.Errorf("set up the kernel: %w", err)
		}
	}
	// Not by package unix: what is set here, Go passes on to what it starts.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &openFiles); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	return loadModules(false)
}

func (m mount) mount(root string) error {
	target := filepath.Join(root, m.target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// loadModules loads those that see disks, or all others.
func loadModules(disk bool) error {
	files, err := filepath.Glob(filepath.Join(modulesDir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files {
		if slices.Contains(diskModules, moduleName(file)) != disk {
			continue
		}
		if err := loadModule(file); err != nil {
			return fmt.Errorf("load module %s: %w", filepath.Base(file), err)
		}
		_ = os.Remove(file) // the initramfs is memory
	}
	return nil
}

// moduleName is the kernel's name of the module in a file.
func moduleName(file string) string {
	name := strings.TrimSuffix(filepath.Base(file), ".ko")
	if _, after, ok := strings.Cut(name, "-"); ok {
		name = after
	}
	return strings.ReplaceAll(name, "-", "_")
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) { // there, or of no use to this processor
		return nil
	}
	return err
}

// The names of the virtio ports between agent and host: see package lives.
const (
	LinkPort = "atoll.link"
	BellPort = "atoll.bell"
)

// OpenPort waits for the virtio port of that name and opens it.
func OpenPort(name string) (*os.File, error) {
	device, err := await("port "+name, func() (string, error) { return named("/sys/class/virtio-ports/*/name", name) })
	if err != nil {
		return nil, err
	}
	return os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK, 0)
}

// disk waits for the block device with that serial and returns its device.
func disk(serial string) (string, error) {
	return await("disk "+serial, func() (string, error) { return named("/sys/block/*/serial", serial) })
}

// named returns the device whose attribute has the given content.
func named(pattern, want string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(raw)) == want {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", fs.ErrNotExist
}

func await(what string, find func() (string, error)) (string, error) {
	for deadline := time.Now().Add(devicePatience); ; {
		path, err := find()
		if err == nil {
			if _, err = os.Stat(path); err == nil {
				return path, nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("%s does not appear: %w", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// The places of the parts of the root, in the initramfs.
const (
	imageMount = "/mnt/image"
	diskMount  = "/mnt/disk"
	rootMount  = "/mnt/root"
)

// Root makes the disks the root of the machine and configures its network.
func Root(b link.Boot) error {
	if err := loadModules(true); err != nil {
		return err
	}
	if err := mountRoot(b); err != nil {
		return err
	}
	if err := switchRoot(rootMount); err != nil {
		return err
	}
	for _, m := range systemMounts {
		if err := m.mount("/"); err != nil {
			return err
		}
	}
	return configureCard(b)
}

func mountRoot(b link.Boot) error {
	image, err := disk(b.Root)
	if err != nil {
		return err
	}
	writable, err := disk(b.Disk)
	if err != nil {
		return err
	}
	upper, work := filepath.Join(diskMount, "upper"), filepath.Join(diskMount, "work")
	for _, m := range []mount{
		{image, imageMount, "erofs", unix.MS_RDONLY | unix.MS_NODEV, ""},
		{writable, diskMount, "ext4", unix.MS_NOATIME | unix.MS_NODEV, ""},
	} {
		if err := m.mount(""); err != nil {
			return err
		}
	}
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare disk: %w", err)
		}
	}
	return mount{"overlay", rootMount, "overlay", unix.MS_NOATIME,
		"lowerdir=" + imageMount + ",upperdir=" + upper + ",workdir=" + work}.mount("")
}

// switchRoot makes the mounted root this program's and that of all that it
// starts. The initramfs stays below it, out of reach.
func switchRoot(root string) error {
	for _, m := range kernelMounts {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("prepare root: %w", err)
		}
		if err := unix.Mount(m.target, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	return unix.Chdir("/")
}

// PowerOff ends the machine. It returns only when it can't.
func PowerOff() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
