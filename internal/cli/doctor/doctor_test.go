package doctor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/isolation"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

// host lays out a root directory with the given files.
func host(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Host{
		Root:    root,
		Data:    layout.Data{Dir: filepath.Join(root, "data")},
		Image:   layout.Image{Dir: filepath.Join(root, "images"), Name: "debian-13"},
		Listen:  "127.0.0.1:0",
		BinDirs: []string{filepath.Join(root, "bin")},
		Ping:    func(context.Context) error { return errors.New("nobody there") },
		Examine: func(context.Context) isolation.Host { return isolation.Host{} },
	}
}

// TestMicrovm: what microVMs lack is fatal only where they were asked for.
func TestMicrovm(t *testing.T) {
	lacks, slow := errors.New("no qemu\nno mke2fs"), errors.New("no KVM")
	type checker = func(Host, context.Context) Check
	for name, c := range map[string]struct {
		isolation    string
		host         isolation.Host
		check        checker
		status, says string
	}{
		"qemu":            {config.IsolationAuto, isolation.Host{QEMU: microvm.QEMU{Path: "/usr/bin/q", Version: "7.2"}}, Host.qemu, OK, "/usr/bin/q 7.2"},
		"none needed":     {config.IsolationGvisor, isolation.Host{Lacks: lacks}, Host.qemu, Warn, "no qemu; no mke2fs"},
		"none":            {config.IsolationMicrovm, isolation.Host{Lacks: lacks}, Host.qemu, Fail, "no qemu; no mke2fs"},
		"slow":            {config.IsolationMicrovm, isolation.Host{Slow: slow}, Host.isolation, Warn, "software emulation, several times slower than with KVM: no KVM"},
		"fast":            {config.IsolationMicrovm, isolation.Host{}, Host.isolation, OK, "with KVM"},
		"gvisor":          {config.IsolationGvisor, isolation.Host{Slow: slow}, Host.isolation, OK, "gvisor"},
		"auto":            {config.IsolationAuto, isolation.Host{}, Host.isolation, OK, "auto: microvm with KVM, if a trial"},
		"auto without":    {config.IsolationAuto, isolation.Host{Slow: slow}, Host.isolation, OK, "auto: gvisor, not microvm: no KVM"},
		"no kernel":       {config.IsolationAuto, isolation.Host{}, Host.image, Warn, "vmlinuz is missing"},
		"no kernel there": {config.IsolationMicrovm, isolation.Host{}, Host.image, Fail, "vmlinuz is missing"},
	} {
		h := host(t, map[string]string{"images/debian-13.erofs": "", "images/debian-13.json": ""})
		h.Isolation, h.Examine = c.isolation, func(context.Context) isolation.Host { return c.host }
		if check := c.check(h, t.Context()); check.Status != c.status || !strings.Contains(check.Detail, c.says) || check.Status == Fail && check.Remedy == "" {
			t.Errorf("%s: %+v", name, check)
		}
	}
}

func TestTrial(t *testing.T) {
	h := host(t, nil)
	h.Try = func(context.Context) (time.Duration, error) { return 1234 * time.Millisecond, nil }
	checks := Run(t.Context(), h)
	if last := checks[len(checks)-1]; last.Name != "trial" || last.Status != OK || !strings.Contains(last.Detail, "1.23s") {
		t.Errorf("%+v", last)
	}
	h.Isolation = config.IsolationMicrovm
	h.Try = func(context.Context) (time.Duration, error) { return 0, errors.New("a reason") }
	if check := h.trial(t.Context()); check.Status != Fail || !strings.Contains(check.Detail, "a reason") {
		t.Errorf("%+v", check)
	}
}

func TestChecks(t *testing.T) {
	type files = map[string]string
	tests := []struct {
		name  string
		files files
		check func(Host, context.Context) Check
		want  string
	}{
		{"kernel new", files{"proc/sys/kernel/osrelease": "6.12.3-cloud\n"}, Host.kernel, OK},
		{"kernel oldest", files{"proc/sys/kernel/osrelease": "5.4"}, Host.kernel, OK},
		{"kernel too old", files{"proc/sys/kernel/osrelease": "4.19.0"}, Host.kernel, Fail},
		{"kernel none", nil, Host.kernel, Fail},
		{"tun", files{"dev/net/tun": ""}, Host.tun, OK},
		{"no tun", nil, Host.tun, Fail},
		{"cgroup 2", files{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids"}, Host.cgroups, OK},
		{"cgroup 2 without pids", files{"sys/fs/cgroup/cgroup.controllers": "cpu memory"}, Host.cgroups, Fail},
		{"cgroup 1", files{
			"sys/fs/cgroup/memory/cgroup.procs": "", "sys/fs/cgroup/cpu,cpuacct/cgroup.procs": "", "sys/fs/cgroup/pids/cgroup.procs": "",
		}, Host.cgroups, OK},
		{"cgroup 1 without memory", files{
			"sys/fs/cgroup/cpu/cgroup.procs": "", "sys/fs/cgroup/pids/cgroup.procs": "",
		}, Host.cgroups, Fail},
		{"no cgroups", nil, Host.cgroups, Fail},
		{"image", files{
			"images/debian-13.erofs": "", "images/debian-13.json": "", "images/debian-13.vmlinuz": "", "images/debian-13.modules": "",
		}, Host.image, OK},
		{"image without kernel", files{"images/debian-13.erofs": "", "images/debian-13.json": ""}, Host.image, Warn},
		{"image without metadata", files{"images/debian-13.erofs": ""}, Host.image, Fail},
		{"no image", nil, Host.image, Fail},
		{"memory", files{"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   8000000 kB\n"}, Host.memory, OK},
		{"memory little", files{"proc/meminfo": "MemAvailable:   1000000 kB\n"}, Host.memory, Warn},
		{"memory too little", files{"proc/meminfo": "MemAvailable:   100000 kB\n"}, Host.memory, Fail},
		{"kvm and vmx", files{"dev/kvm": "", "proc/cpuinfo": "flags\t\t: fpu vmx sse\n"}, Host.virtualisation, OK},
		{"kvm without flags", files{"dev/kvm": "", "proc/cpuinfo": "flags\t\t: fpu sse\n"}, Host.virtualisation, Warn},
		{"flags without kvm", files{"proc/cpuinfo": "flags\t\t: svm\n"}, Host.virtualisation, Warn},
		{"no server, free port", nil, Host.server, Warn},
		{"root", nil, Host.root, OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.check(host(t, tt.files), t.Context())
			if got.Status != tt.want {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
			if got.Status == Fail && got.Remedy == "" {
				t.Errorf("no remedy for %q", got.Detail)
			}
		})
	}
}

func TestBusyPort(t *testing.T) {
	h := host(t, nil)
	h.Listen = "192.0.2.1:1" // an address that this host does not have
	if got := h.server(t.Context()); got.Status != Fail {
		t.Errorf("got %+v", got)
	}
	h.Ping = func(context.Context) error { return nil }
	if got := h.server(t.Context()); got.Status != OK {
		t.Errorf("got %+v", got)
	}
}

// TestNames pins the names of the checks, which scripts rely on.
func TestNames(t *testing.T) {
	var names []string
	for _, c := range Run(t.Context(), host(t, nil)) {
		names = append(names, c.Name)
	}
	want := []string{
		"root", "settings", "kernel", "tun", "namespaces", "cgroups", "binaries", "image",
		"build-tools", "disk", "memory", "virtualisation", "qemu", "isolation", "network", "server",
	}
	if len(names) != len(want) {
		t.Fatalf("got %v", names)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Errorf("check %d is %s, want %s", i, names[i], want[i])
		}
	}
}

func TestNetwork(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, c := range map[string]struct {
		network      config.Network
		status, says string
	}{
		"open":       {config.Network{}, OK, "public addresses"},
		"ceiling":    {config.Network{Ceiling: []string{"a.example", "b.example"}, Strict: true}, OK, "net_ceiling lists (entries: 2), all their TLS is read"},
		"proxy":      {config.Network{Proxy: config.Proxy("http://user:hunter2@" + proxy.Addr().String())}, OK, "through the proxy 127.0.0.1:"},
		"proxy gone": {config.Network{Proxy: config.Proxy("socks5://user:hunter2@" + gone.Addr().String())}, Warn, "does not answer"},
		"no proxy":   {config.Network{Proxy: "http://user:hunter2@%"}, Fail, "no URL"},
	} {
		check := Host{Network: c.network}.network(t.Context())
		if check.Status != c.status || !strings.Contains(check.Detail, c.says) {
			t.Errorf("%s: %+v", name, check)
		}
		if strings.Contains(check.Detail+check.Remedy, "hunter2") {
			t.Errorf("%s: the password is in %+v", name, check)
		}
	}
}

func TestSettings(t *testing.T) {
	if check := (Host{}).settings(t.Context()); check.Status != OK {
		t.Error(check)
	}
	wrong := Host{Settings: errors.Join(errors.New("cpus: must be at least 1"), errors.New("no such key"))}
	if check := wrong.settings(t.Context()); check.Status != Fail || check.Detail != "cpus: must be at least 1; no such key" {
		t.Error(check)
	}
}
