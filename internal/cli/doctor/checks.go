package doctor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func (h Host) path(p string) string { return filepath.Join(h.Root, p) }

func (h Host) read(p string) string {
	data, _ := os.ReadFile(h.path(p))
	return strings.TrimSpace(string(data))
}

func (h Host) root(context.Context) Check {
	if h.UID == 0 {
		return ok("running as root")
	}
	return fail(fmt.Sprintf("running as uid %d", h.UID),
		`the server makes namespaces, network devices and control groups: run it as root, with sudo or as a service`)
}

// The oldest kernel that gVisor's systrap platform runs well on.
const (
	minMajor = 5
	minMinor = 4
)

func (h Host) kernel(context.Context) Check {
	release := h.read("/proc/sys/kernel/osrelease")
	if runtime.GOOS != "linux" || release == "" {
		return fail("this is not Linux", "sandboxes need a Linux host")
	}
	detail := fmt.Sprintf("Linux %s, %s", release, runtime.GOARCH)
	major, minor := parseKernel(release)
	if major < minMajor || (major == minMajor && minor < minMinor) {
		return fail(detail, fmt.Sprintf("use a kernel of at least %d.%d", minMajor, minMinor))
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return fail(detail, "only amd64 and arm64 can run sandboxes")
	}
	return ok(detail)
}

func parseKernel(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, _ = strconv.Atoi(parts[0])
	end := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(parts[1])
	}
	minor, _ = strconv.Atoi(parts[1][:end])
	return major, minor
}

func (h Host) tun(context.Context) Check {
	const remedy = `load it with "modprobe tun"; in a container, pass the device and grant CAP_NET_ADMIN`
	info, err := os.Stat(h.path("/dev/net/tun"))
	if err != nil {
		return fail("/dev/net/tun is missing", remedy)
	}
	f, err := os.OpenFile(h.path("/dev/net/tun"), os.O_RDWR, 0)
	if err != nil && h.UID == 0 {
		return fail("/dev/net/tun cannot be opened: "+err.Error(), remedy)
	}
	if err == nil {
		f.Close()
	}
	return ok("/dev/net/tun is there, mode " + info.Mode().Perm().String())
}

func (h Host) namespaces(context.Context) Check {
	var missing []string
	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts", "user"} {
		if _, err := os.Stat(h.path("/proc/self/ns/" + ns)); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return fail("the kernel lacks namespaces: "+strings.Join(missing, ", "), "use a kernel that is built with them")
	}
	if limit := h.read("/proc/sys/user/max_net_namespaces"); limit == "0" {
		return fail("network namespaces are forbidden", `allow them with "sysctl user.max_net_namespaces=4096"`)
	}
	return ok("network, mount, pid, ipc, uts and user")
}

// wantControllers enforce the limits of a sandbox.
func wantControllers() []string { return []string{"memory", "cpu", "pids"} }

func (h Host) cgroups(context.Context) Check {
	version, have := h.controllers()
	if version == 0 {
		return fail("no control groups are mounted", "mount cgroup2 on /sys/fs/cgroup")
	}
	var missing []string
	for _, c := range wantControllers() {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	detail := fmt.Sprintf("version %d", version)
	if len(missing) > 0 {
		return fail(detail+", without "+strings.Join(missing, ", "),
			"enable these controllers: the limits of sandboxes depend on them")
	}
	if unix.Access(h.path("/sys/fs/cgroup"), unix.W_OK) != nil && h.UID == 0 {
		return fail(detail+", read-only", "mount /sys/fs/cgroup writable; a container needs a cgroup namespace of its own")
	}
	return ok(detail + ", with " + strings.Join(wantControllers(), ", "))
}

// controllers tells version 2 by its file of controllers, and lists those of
// version 1 by their mounted hierarchies.
func (h Host) controllers() (version int, names []string) {
	if list := h.read("/sys/fs/cgroup/cgroup.controllers"); list != "" {
		return 2, strings.Fields(list)
	}
	for _, c := range wantControllers() {
		for _, dir := range []string{c, c + ",cpuacct"} {
			if _, err := os.Stat(h.path("/sys/fs/cgroup/" + dir + "/cgroup.procs")); err == nil {
				version, names = 1, append(names, c)
				break
			}
		}
	}
	return version, names
}

func (h Host) binaries(context.Context) Check {
	var missing []string
	for _, name := range []string{"atoll-shim", "atoll-agent", "runsc"} {
		if !h.find(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fail("not found: "+strings.Join(missing, ", "),
			fmt.Sprintf(`build them with "make build" and keep them together in %s`, strings.Join(h.BinDirs, " or ")))
	}
	return ok("atoll-shim, atoll-agent and runsc")
}

func (h Host) find(name string) bool {
	for _, dir := range h.BinDirs {
		if unix.Access(filepath.Join(dir, name), unix.X_OK) == nil {
			return true
		}
	}
	return false
}

func (h Host) image(context.Context) Check {
	remedy := `build it with "atoll image build", or say where it is with --image-dir`
	if h.Image.Dir != h.Data.Images() {
		remedy = fmt.Sprintf(`build it with "atoll image build --image-dir %s"`, h.Image.Dir)
	}
	info, err := os.Stat(h.Image.File())
	switch {
	case errors.Is(err, os.ErrPermission):
		return warn(h.Image.File()+" cannot be examined by this user", "run the doctor as root")
	case err != nil:
		return fail(h.Image.File()+" is missing", remedy)
	}
	if _, err := os.Stat(h.Image.Metadata()); err != nil {
		return fail(h.Image.Metadata()+" is missing", remedy)
	}
	for _, path := range []string{h.Image.Kernel(), h.Image.Modules()} {
		if _, err := os.Stat(path); err != nil {
			return h.lacking(path+" is missing: microVMs cannot start", remedy)
		}
	}
	return ok(fmt.Sprintf("%s, %d MiB", h.Image.File(), info.Size()>>20))
}

func (h Host) buildTools(context.Context) Check {
	var missing []string
	for _, tool := range []string{"mkfs.erofs", "mmdebstrap"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return warn("not found: "+strings.Join(missing, ", "),
			`needed by "atoll image build" only; on Debian: apt install erofs-utils mmdebstrap`)
	}
	return ok("mkfs.erofs and mmdebstrap")
}

const (
	lowDisk   = 10 << 30
	leastDisk = 1 << 30
)

func (h Host) disk(context.Context) Check {
	dir := existing(h.Data.Dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return warn("free space of "+dir+" is unknown: "+err.Error(), "")
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // block sizes are positive
	detail := fmt.Sprintf("%d GiB free in %s", free>>30, dir)
	switch {
	case free < leastDisk:
		return fail(detail, "free some space, or move the data directory with --data-dir")
	case free < lowDisk:
		return warn(detail, "a sandbox may write up to 10 GiB: free some space, or move the data directory")
	}
	return ok(detail)
}

// existing is the nearest directory above dir that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (h Host) memory(context.Context) Check {
	kib := h.meminfo("MemAvailable")
	detail := fmt.Sprintf("%d MiB available", kib>>10)
	switch {
	case kib == 0:
		return warn("the available memory is unknown", "")
	case kib < 768<<10:
		return fail(detail, "the smallest sandbox has 768 MiB: stop something, or add memory")
	case kib < 2<<20:
		return warn(detail, "that is enough for one or two sandboxes only")
	}
	return ok(detail)
}

// meminfo returns a line of /proc/meminfo in KiB, 0 if there is none.
func (h Host) meminfo(key string) uint64 {
	lines := bufio.NewScanner(strings.NewReader(h.read("/proc/meminfo")))
	for lines.Scan() {
		if rest, found := strings.CutPrefix(lines.Text(), key+":"); found {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

// virtualisation looks at the CPU as well as at /dev/kvm, which exists on some
// hosts whose CPU cannot use it.
func (h Host) virtualisation(context.Context) Check {
	const remedy = "not needed by the gvisor isolation; for microvm, enable it in the firmware or, in a cloud, nested virtualisation"
	_, err := os.Stat(h.path("/dev/kvm"))
	flags := h.cpuHas("vmx", "svm")
	switch {
	case flags && err == nil:
		return ok("the CPU has it, /dev/kvm is there")
	case flags:
		return warn("the CPU has it, /dev/kvm is missing", `load it with "modprobe kvm_intel" or "modprobe kvm_amd"`)
	case err == nil:
		return warn("/dev/kvm is there, the CPU has neither vmx nor svm", remedy)
	}
	return warn("none", remedy)
}

func (h Host) cpuHas(flags ...string) bool {
	for line := range bytes.Lines([]byte(h.read("/proc/cpuinfo"))) {
		key, value, _ := strings.Cut(string(line), ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		have := strings.Fields(value)
		return slices.ContainsFunc(flags, func(f string) bool { return slices.Contains(have, f) })
	}
	return false
}

// server asks a running server, or sees whether its port is free for one.
func (h Host) server(ctx context.Context) Check {
	pingErr := h.Ping(ctx)
	if pingErr == nil {
		return ok("a server answers")
	}
	addr, valid := listenAddr(h.Listen)
	if !valid {
		return warn("no server answers: "+pingErr.Error(), `start one with "atoll serve"`)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return fail(fmt.Sprintf("no server answers (%v) and %s is not free: %v", pingErr, addr, err),
			"stop what uses the port, or choose another with --listen")
	}
	l.Close()
	return warn(fmt.Sprintf("no server answers (%v); %s is free for one", pingErr, addr), `start it with "atoll serve"`)
}
