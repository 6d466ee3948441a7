//go:build e2e

package shim

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/shim"
	"github.com/atollhq/atoll/internal/shim/launch"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// microvmBox runs a shim with a microVM in this process.
func microvmBox(t *testing.T, l *launch.Launcher, id string, origin *wire.Origin, own wire.Personal) *box {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	accel, _ := microvm.Accelerate()
	log := slog.New(slog.NewTextHandler(t.Output(), nil)).With("sandbox_id", id)
	image := os.Getenv("ATOLL_TEST_IMAGE")
	base := strings.TrimSuffix(image, ".erofs")
	dir := l.Data.Sandbox(id).Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := wire.Spec{
		ID: id, Dir: dir, Driver: microvm.Name, Hostname: id, Agent: l.Binaries.Agent, Image: image, Kernel: base + ".vmlinuz", Modules: base + ".modules",
		MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30, Origin: origin, Personal: own, StartTimeout: 3 * time.Minute,
	}
	gateway, err := shim.NewGateway(spec, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	driver := microvm.New(microvm.Config{QEMU: qemu, Jail: l.Binaries.Shim, Accel: accel, Log: log})
	s := shim.New(spec, shim.Parts{Driver: driver, Gateway: gateway, Network: wire.Network(), Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- s.Run(ctx, writer) }()
	t.Cleanup(func() { cancel(); <-ended })
	var started wire.Started
	if err := json.NewDecoder(reader).Decode(&started); err != nil || started.Error != "" {
		t.Fatalf("start: %v %s", err, started.Error)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	t.Logf("%s runs after %v (%s)", id, time.Since(began), accel)
	attached, err := l.Attach(deadline(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return &box{t, l, attached, id}
}

// TestMicrovmPauseResumeFork: with a kernel of its own, the guest's agent has
// more to set right.
func TestMicrovmPauseResumeFork(t *testing.T) {
	l := launcher(t)
	allow := []string{"example.com"}
	b := microvmBox(t, l, "mv-parent", nil, wire.Personal{AllowNet: &allow, Secrets: wire.Secrets{"API_KEY": secret.Spec{Hosts: []string{"example.com"}, Value: secretValue}}})
	b.sh(prepare)
	boot := b.sh("cat /proc/sys/kernel/random/boot_id")
	b.wantCounting()
	if _, err := b.Pause(deadline(t), false); err != nil {
		t.Fatal(err)
	}
	b.resume()
	b.wantCounting()
	b.sh(connect)
	b.suspend()
	b.resume()
	b.await("cat /tmp/connected", "cut")
	t.Logf("modules for cutting: %s", b.sh("grep -c ^tcp_diag /proc/modules; true"))
	b.wantCounting()
	b.wantNetwork()
	b.sh(connect)
	f := b.fork()
	b.wantCounting()
	seen := map[string]bool{boot: true, b.sh("cat /etc/machine-id"): true, b.env("API_KEY"): true}
	for _, id := range []string{"mv-child-1", "mv-child-2"} {
		origin := wire.Origin(f.Origin)
		p := f.Personal()
		c := microvmBox(t, l, id, &origin, wire.Personal{Env: p.Env, AllowNet: p.AllowNet, Secrets: p.Secrets.Specs()})
		c.await("cat /tmp/connected", "cut")
		c.wantCounting()
		c.wantNetwork()
		for _, own := range []string{c.sh("cat /proc/sys/kernel/random/boot_id"), c.sh("cat /etc/machine-id"), c.env("API_KEY"), c.sh("head -c 16 /dev/urandom | od -An -tx1")} {
			if own == "" || seen[own] {
				t.Errorf("%s: %q is not its own", id, own)
			}
			seen[own] = true
		}
		if got := c.sh("hostname") + c.env("ATOLL_SANDBOX_ID"); got != id+id {
			t.Errorf("it is %s", got)
		}
		c.await("tail -n 1 /tmp/hooks", "fork "+id+" "+b.id)
	}
	_ = f.Close()
	b.awaitNoneOnDisk()
}
