package microvm

import (
	"encoding/json"
	"flag"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm/jail"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func exampleSpec() machine.Spec {
	return machine.Spec{
		ID: "sbx_ord_0123456789abcdefghjk", Dir: "/var/lib/atoll/sandboxes/x/machine", Hostname: "example",
		Image: machine.Image{File: "/images/debian-13.erofs", Kernel: "/images/debian-13.vmlinuz", Modules: "/images/debian-13.modules"},
		Agent: "/usr/lib/atoll/atoll-agent", MemoryBytes: 1280 << 20, CPUs: 2, DiskBytes: 10 << 30,
		Network: machine.Network{MTU: 65520, GuestMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
	}
}

// The machines whose arguments and jails are golden files.
var examples = map[string]plan{
	"boot-kvm": {spec: exampleSpec(), accel: KVM, disks: []string{baseDisk}, shared: true},
	"boot-tcg": {spec: exampleSpec(), accel: TCG, tscKHz: 2_100_000, disks: []string{baseDisk}, shared: true},
	"restored": {spec: exampleSpec(), accel: KVM, disks: []string{baseDisk, "disk1.qcow2", "disk2.qcow2"}, load: true},
}

// What QEMU is asked for, and what it can reach, is the isolation: a change
// shows here.
func TestGoldens(t *testing.T) {
	d := New(Config{QEMU: "/usr/bin/qemu-system-x86_64"})
	for name, p := range examples {
		golden(t, "testdata/"+name+".txt", strings.Join(p.args(), "\n")+"\n")
		c := d.jailConfig(p.spec, uidBase+42, p.spec.Dir, p)
		c.Args = nil // golden already
		c.Mounts = slices.DeleteFunc(c.Mounts, func(m jail.Mount) bool { return m.Source == "/lib64" })
		raw, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name+".jail.json", string(raw)+"\n")
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// QEMU may write to the work directory and to nothing else.
func TestOnlyWorkIsWritable(t *testing.T) {
	for name, p := range examples {
		for _, m := range New(Config{}).jailConfig(p.spec, 1, p.spec.Dir, p).Mounts {
			if m.Write != (m.Target == jailWork) {
				t.Errorf("%s: %+v", name, m)
			}
		}
	}
}

func TestLimitsAddTheDriversOverhead(t *testing.T) {
	s := exampleSpec()
	s.MaxPIDs = 1024 // the guest's processes are not QEMU's
	for accel, overhead := range map[Acceleration]int64{KVM: overheadBytes, TCG: overheadBytes + overheadTCG} {
		for shared, memory := range map[bool]int64{false: 1280 << 20, true: 2 * 1280 << 20} {
			got := New(Config{Accel: accel}).limits(s, shared)
			if want := (cgroup.Limits{MemoryBytes: memory + overhead, CPUs: 2, PIDs: defaultMaxPIDs}); got != want {
				t.Errorf("%s, shared %v: limits %+v; want %+v", accel, shared, got, want)
			}
		}
	}
}
