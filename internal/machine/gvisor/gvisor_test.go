package gvisor

import (
	"encoding/json"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func exampleSpec() machine.Spec {
	return machine.Spec{
		ID: "sbx_ord_0123456789abcdefghjk", Dir: "/var/lib/atoll/sandboxes/x/machine", Hostname: "example",
		Image: machine.Image{File: "/images/debian-13.erofs"}, Agent: "/usr/lib/atoll/atoll-agent",
		MemoryBytes: 1280 << 20, CPUs: 2, DiskBytes: 10 << 30,
		Network: machine.Network{
			MTU: 1500, GuestMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, GatewayMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
			Guest4: netip.MustParsePrefix("10.87.0.2/24"), Gateway4: netip.MustParseAddr("10.87.0.1"),
		},
	}
}

// What runsc is asked for is the isolation: a change shows here.
func TestGoldens(t *testing.T) {
	s := exampleSpec()
	spec, err := json.MarshalIndent(ociSpec(s, cgroup.Open(s.ID)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/config.json", string(spec)+"\n")
	golden(t, "testdata/run.txt", strings.Join(runArgs(s), "\n")+"\n")
	golden(t, "testdata/restore.txt", strings.Join(restoreArgs(s, "/saved"), "\n")+"\n")
	golden(t, "testdata/checkpoint.txt", strings.Join(checkpointArgs(s.ID, "/saved"), "\n")+"\n")
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

func TestLimitsAddTheDriversOverhead(t *testing.T) {
	got := (&gvisorMachine{}).limits(exampleSpec())
	want := cgroup.Limits{MemoryBytes: 1280<<20 + overheadBytes, CPUs: 2, PIDs: defaultMaxPIDs}
	if got != want {
		t.Errorf("limits %+v; want %+v", got, want)
	}
}

// What is saved is mostly pages that nobody wrote to: they cost nothing.
func TestHolesTakeNoSpace(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "pages"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(make([]byte, 4096), 1<<30); err != nil {
		t.Fatal(err)
	}
	if bytes, err := diskUsage(dir); err != nil || bytes <= 0 || bytes > 1<<20 {
		t.Errorf("a page behind a hole of a GiB takes up %d bytes (%v)", bytes, err)
	}
}

// What ends a machine first is why it ended; saving is never taken for
// anything else.
func TestReasonOfTheEnd(t *testing.T) {
	m := newMachine(New("", nil), "never-was", t.TempDir())
	if e := m.exitOf(nil); e.Reason != machine.ExitCrashed {
		t.Errorf("nobody asked: %+v", e)
	}
	m.askedToEnd(machine.ExitSaved)
	m.askedToEnd(machine.ExitStopped)
	if e := m.exitOf(nil); e.Reason != machine.ExitSaved {
		t.Errorf("saved, then killed: %+v", e)
	}
}
