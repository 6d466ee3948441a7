package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/atollhq/atoll/internal/layout"
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
		{"image", files{"images/debian-13.erofs": "", "images/debian-13.json": ""}, Host.image, OK},
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
		"root", "kernel", "tun", "namespaces", "cgroups", "binaries", "image",
		"build-tools", "disk", "memory", "virtualisation", "server",
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
