//go:build e2e

// Package machine runs the driver conformance suite on real machines.
package machine

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/machinetest"
)

func need(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set; run this through `make test`", name)
	}
	return v
}

func TestGvisorConformance(t *testing.T) {
	bin, image := need(t, "ATOLL_TEST_BIN"), need(t, "ATOLL_TEST_IMAGE")
	machinetest.Run(t, machinetest.Harness{
		New: func(*testing.T) machine.Driver {
			return gvisor.New(filepath.Join(bin, "runsc"), slog.New(slog.DiscardHandler))
		},
		Spec: func(*testing.T) machine.Spec {
			return machine.Spec{
				Hostname: "conformance", Image: machine.Image{File: image}, Agent: filepath.Join(bin, "atoll-agent"),
				MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30, Network: network(),
			}
		},
		Crash: func(t *testing.T, _ machine.Driver, m machine.Machine) {
			for _, pid := range cgroup.Open(m.State().ID).PIDs() {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Logf("kill %d: %v", pid, err)
				}
			}
		},
		Full:  full,
		Leaks: leaks,
	})
}

func leaks(id string) []string {
	var left []string
	for _, name := range cgroup.Leftovers() {
		if name == id {
			left = append(left, "control group "+name)
		}
	}
	return left
}

// full is a file system of one page.
func full(t *testing.T) string {
	dir := t.TempDir()
	if err := syscall.Mount("full", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func network() machine.Network {
	return machine.Network{
		MTU: 1500, GuestMAC: net.HardwareAddr{2, 0xa7, 0, 0, 0, 2}, GatewayMAC: net.HardwareAddr{2, 0xa7, 0, 0, 0, 1},
		Guest4: netip.MustParsePrefix("10.87.0.2/24"), Gateway4: netip.MustParseAddr("10.87.0.1"),
		Guest6: netip.MustParsePrefix("fd00:a701::2/64"), Gateway6: netip.MustParseAddr("fd00:a701::1"),
	}
}
