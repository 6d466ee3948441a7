// Package jail runs a program where it can reach next to nothing: as a user of
// its own, without capabilities, in its own mount, process, network, IPC and
// host name namespaces, with a root that holds only what it was given.
//
// The host side, Command, makes a process in new namespaces that runs this
// package's Main, which builds the root and becomes the program. Main waits
// for its configuration first, so that the caller can put the process into a
// control group before anything happens in it.
package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Name is what a program is called by (argument 0) that is to call Main.
const Name = "atoll-jail"

// maxConfig bounds the configuration, in bytes.
const maxConfig = 1 << 20

// Config says what a jail is.
type Config struct {
	Root    string   `json:"root"`    // empty directory that becomes the root
	UID     int      `json:"uid"`     // user and group
	MaxFile int64    `json:"maxFile"` // bytes up to which it can make a file grow
	Mounts  []Mount  `json:"mounts"`  // in this order
	Devices []Device `json:"devices"` //
	Program string   `json:"program"` // path in the jail
	Args    []string `json:"args"`    // without argument 0
}

// Mount is a file or directory of the host in the jail, where it can't be
// executed as another user and holds no devices.
type Mount struct {
	Source string `json:"source"`
	Target string `json:"target"`
	Write  bool   `json:"write,omitempty"`
}

// Device is a character device in the jail, the program's own.
type Device struct {
	Name  string `json:"name"` // below /dev
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// Command returns the command that runs Main of the given program, with files
// as descriptors 3 and up, and one more for the configuration: write it to
// the returned file and keep that open while the program may live. Start the
// command from a locked thread that outlives it: the program is killed when
// the thread ends.
func Command(program string, files []*os.File) (*exec.Cmd, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	cmd := exec.Command(program)
	cmd.Args = []string{Name, fmt.Sprint(3 + len(files))}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.ExtraFiles = append(append([]*os.File{}, files...), r)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	return cmd, w, nil
}

// Send configures a started command.
func Send(w io.Writer, c Config) error {
	if err := json.NewEncoder(w).Encode(c); err != nil {
		return fmt.Errorf("configure jail: %w", err)
	}
	return nil
}

// Main builds the jail and becomes the program. It returns only when it
// can't.
func Main(args []string) error {
	runtime.LockOSThread() // some of what follows belongs to a thread
	if len(args) != 1 {
		return errors.New("jail: give the descriptor of the configuration")
	}
	var fd int
	if _, err := fmt.Sscan(args[0], &fd); err != nil || fd < 3 {
		return fmt.Errorf("jail: bad descriptor %q", args[0])
	}
	unix.CloseOnExec(fd)
	control := os.NewFile(uintptr(fd), "configuration")
	var c Config
	if err := json.NewDecoder(io.LimitReader(control, maxConfig)).Decode(&c); err != nil {
		return fmt.Errorf("jail: read configuration: %w", err)
	}
	if err := build(c); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	if err := drop(c.UID, c.MaxFile); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	if orphaned(fd) {
		return errors.New("jail: the parent is gone")
	}
	err := unix.Exec(c.Program, append([]string{c.Program}, c.Args...), os.Environ())
	return fmt.Errorf("jail: run %s: %w", c.Program, err)
}

// build makes the root and goes there.
func build(c Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", c.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	for _, m := range c.Mounts {
		if err := m.mount(c.Root); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := makeDevices(c); err != nil {
		return err
	}
	proc := filepath.Join(c.Root, "proc")
	if err := os.Mkdir(proc, 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return enter(c.Root)
}

func (m Mount) mount(root string) error {
	target := filepath.Join(root, m.Target)
	info, err := os.Lstat(m.Source)
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(m.Source)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV)
	if !m.Write {
		flags |= unix.MS_RDONLY
	}
	return unix.Mount("", target, "", flags, "")
}

func makeDevices(c Config) error {
	dev := filepath.Join(c.Root, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	for _, d := range c.Devices {
		path := filepath.Join(dev, d.Name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
			return fmt.Errorf("make device %s: %w", d.Name, err)
		}
		if err := os.Chown(path, c.UID, c.UID); err != nil {
			return fmt.Errorf("make device %s: %w", d.Name, err)
		}
	}
	return nil
}

// enter makes a directory the root and loses the old one.
func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make root read-only: %w", err)
	}
	return unix.Chdir("/")
}

// drop gives up all privileges for good.
func drop(uid int, maxFile int64) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(maxFile), Max: uint64(maxFile)}); err != nil {
		return fmt.Errorf("bound files: %w", err)
	}
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid)); err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	// A change of user clears it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tie life to the parent's: %w", err)
	}
	return nil
}

// orphaned reports whether the parent, which holds the other end of the
// configuration, was gone before its death could be noticed.
func orphaned(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
