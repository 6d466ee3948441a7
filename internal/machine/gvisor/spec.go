package gvisor

import (
	"fmt"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
)

const (
	// guestAgent is where the agent's binary is mounted in the guest.
	guestAgent = "/.atoll/agent"
	// guestLinkFD and guestBellFD are the agent's descriptors of the link, and
	// of the socket that says that the link is another one since the machine
	// was restored. They are its standard input and output, because those are
	// what runsc gives a restored machine anew.
	guestLinkFD = 0
	guestBellFD = 1
	// ownNamespace is the network namespace of whoever opens it: runsc is
	// started in the machine's.
	ownNamespace = "/proc/self/ns/net"
)

// ociSpec is the runtime specification of a machine: a pure function, so that
// a golden file shows every change of what runsc is asked for.
func ociSpec(s machine.Spec, group *cgroup.Group) *specs.Spec {
	return &specs.Spec{
		Version:     specs.Version,
		Hostname:    s.Hostname,
		Root:        &specs.Root{Path: emptyRoot(s.Dir)},
		Process:     agentProcess(),
		Mounts:      mounts(s),
		Annotations: rootAnnotations(s),
		Linux: &specs.Linux{
			CgroupsPath: group.Path(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.NetworkNamespace, Path: ownNamespace},
			},
		},
	}
}

// emptyRoot is an empty directory: the root comes from the image, but the
// runtime insists on a path.
func emptyRoot(dir string) string { return filepath.Join(dir, "root") }

// diskDir is where the guest's writable disk is made, as a file without name.
func diskDir(dir string) string { return filepath.Join(dir, "disk") }

// stateDir is where runsc keeps its own state.
func stateDir(dir string) string { return filepath.Join(dir, "runsc") }

func diskSize(bytes int64) string { return strconv.FormatInt(bytes>>10, 10) + "k" }

// rootAnnotations hand the image's file to the sentry, without a gofer in
// between.
func rootAnnotations(s machine.Spec) map[string]string {
	const prefix = "dev.gvisor.spec.rootfs."
	return map[string]string{
		prefix + "source":  s.Image.File,
		prefix + "type":    "erofs",
		prefix + "overlay": "dir=" + diskDir(s.Dir),
		prefix + "options": "size=" + diskSize(s.DiskBytes),
	}
}

// mounts are the guest's. The agent is a bind mount of one file, which also
// makes runsc start a gofer; only with one can it open the disk file.
func mounts(s machine.Spec) []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"mode=1777", "nosuid", "nodev"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "nosuid", "nodev"}},
		{Destination: guestAgent, Type: "bind", Source: s.Agent, Options: []string{"bind", "ro"}},
	}
}

func agentProcess() *specs.Process {
	caps := guestCapabilities()
	return &specs.Process{
		Args: []string{guestAgent, fmt.Sprintf("-link-fd=%d", guestLinkFD), fmt.Sprintf("-bell-fd=%d", guestBellFD)},
		// One thread of Go code is enough for the agent, and each wake-up of
		// another is a system call or two.
		Env: []string{"GOMAXPROCS=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cwd: "/",
		Capabilities: &specs.LinuxCapabilities{
			Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps,
		},
		Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 65536, Hard: 1048576},
		},
	}
}

// guestCapabilities are root's in the guest, enforced by the sentry and
// without meaning on the host. Raw sockets are left out: the gateway carries
// TCP and UDP only.
func guestCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
		"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MKNOD",
		"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
		"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_SYSLOG",
	}
}

// runscArgs are runsc's flags for every command about a machine.
func runscArgs(s machine.Spec) []string {
	return []string{
		"--root=" + stateDir(s.Dir),
		"--platform=systrap",
		"--network=sandbox",
		"--overlay2=root:dir=" + diskDir(s.Dir) + ",size=" + diskSize(s.DiskBytes),
		"--allow-suid=true", // sudo
		"--net-raw=false",
		"--tx-checksum-offload=true",     // see machine.NIC
		"--gofer-network-namespace=host", // runsc's own, which is the machine's
		"--host-uds=none",
		"--host-fifo=none",
		"--host-settings=ignore", // `atoll doctor` checks the host
		"--log=/dev/null",
	}
}

// runArgs start a machine.
func runArgs(s machine.Spec) []string {
	return append(runscArgs(s), "run", "--bundle="+s.Dir, s.ID)
}

// restoreArgs start a machine that continues from what is saved in a
// directory. runsc would refuse a runtime specification that differs from the
// saved machine's, and some of the paths in it are the machine's own.
func restoreArgs(s machine.Spec, saved string) []string {
	return append(runscArgs(s), "--restore-spec-validation=ignore",
		"restore", "--bundle="+s.Dir, "--image-path="+saved, s.ID)
}

// checkpointArgs save a machine's memory and disk. The pages go into a file of
// their own, as they are: compressing them takes far longer than writing them.
// The machine always goes on: one that were to end with it would also end when
// saving fails.
func checkpointArgs(id, dir string) []string {
	return []string{
		"checkpoint", "--leave-running", "--compression=none", "--exclude-committed-zero-pages",
		"--image-path=" + dir, id,
	}
}
