//go:build e2e

package machine

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
)

// A process with these variables is not a test but a shim to be killed.
const (
	victimVariable    = "ATOLL_TEST_VICTIM"     // its machine's id
	victimDirVariable = "ATOLL_TEST_VICTIM_DIR" // its machine's directory
)

// victim starts a machine, pauses it, says so and waits.
func victim(id string) {
	fail := func(err error) {
		fmt.Println(err)
		os.Exit(1)
	}
	bin := os.Getenv("ATOLL_TEST_BIN")
	d := gvisor.New(filepath.Join(bin, "runsc"), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := d.Start(ctx, machine.Spec{
		ID: id, Dir: os.Getenv(victimDirVariable), Hostname: "victim",
		Image: machine.Image{File: os.Getenv("ATOLL_TEST_IMAGE")}, Agent: filepath.Join(bin, "atoll-agent"),
		MemoryBytes: memoryBytes, CPUs: 2, DiskBytes: 1 << 30, Network: network(),
		AttachNIC: func(machine.NIC) error { return nil },
	})
	if err != nil {
		fail(err)
	}
	if err := link.Probe(ctx, m.Link()); err != nil {
		fail(err)
	}
	if err := m.(machine.Pauser).Pause(ctx); err != nil {
		fail(err)
	}
	fmt.Println("paused")
	select {}
}

// A machine that stands still dies with its shim, too.
func TestPausedMachineDiesWithItsShim(t *testing.T) {
	id := "victim-" + time.Now().Format("150405.000000000")
	dir := filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	shim := exec.CommandContext(deadline(t), os.Args[0])
	shim.Env = append(os.Environ(), victimVariable+"="+id, victimDirVariable+"="+dir)
	out, err := shim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	_ = shim.Process.Kill()
	_ = shim.Wait()
	d := driver(t)
	m, err := d.Reattach(deadline(t), machine.State{Driver: d.Info().Name, ID: id, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Destroy(context.Background()) }()
	if line != "paused\n" {
		t.Fatalf("the shim said %q", line)
	}
	for end := time.Now().Add(patience); len(cgroup.Open(id).PIDs()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("processes %v outlived their shim", cgroup.Open(id).PIDs())
		}
	}
	if err := m.Destroy(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(cgroup.Leftovers(), id) {
		t.Error("the control group is still there")
	}
}
