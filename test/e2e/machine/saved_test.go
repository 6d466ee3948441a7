//go:build e2e

package machine

import (
	"context"
	_ "embed"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/atollhq/atoll/internal/gateway"
	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
)

// busy keeps connections, a server and a counter going.
//
//go:embed testdata/busy.py
var busy string

// echoServer is where busy.py connects to, in a world of the test's own.
const echoServer = "20.0.0.7:7"

func echo(c net.Conn) {
	defer func() { _ = c.Close() }()
	_, _ = io.Copy(c, c)
}

// world returns a way to connect each machine's card to a fake internet.
func world(t *testing.T) func(machine.NIC) error {
	internet := gatewaytest.NewInternet()
	internet.ServeTCP(echoServer, echo)
	t.Cleanup(internet.Close)
	return func(nic machine.NIC) error {
		g, err := gateway.New(gateway.Config{
			Network: network(), Upstream: internet, Log: slog.New(slog.DiscardHandler),
			HostAddrs: func() ([]netip.Addr, error) { return nil, nil },
		})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = g.Close() })
		return g.Attach(nic)
	}
}

func driver(t *testing.T) *gvisor.Driver {
	return gvisor.New(filepath.Join(need(t, "ATOLL_TEST_BIN"), "runsc"), slog.New(slog.DiscardHandler))
}

// kind is a way to make machines of one driver.
type kind struct {
	machine.Driver
	spec func(t *testing.T, attach func(machine.NIC) error) machine.Spec
}

func (k kind) restore(t *testing.T, s machine.Spec, from machine.Snapshot) machine.Machine {
	t.Helper()
	m, err := k.Driver.(machine.Restorer).Restore(deadline(t), s, from)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// onBoth runs a test with machines of each driver.
func onBoth(t *testing.T, test func(*testing.T, kind)) {
	t.Run("gvisor", func(t *testing.T) {
		test(t, kind{driver(t), spec})
	})
	t.Run("microvm", func(t *testing.T) {
		d, like := microvms(t)
		test(t, kind{d, func(t *testing.T, attach func(machine.NIC) error) machine.Spec {
			s := spec(t, attach)
			s.Image, s.Network = like.Image, like.Network
			s.Template = template(t, d, s)
			return s
		}})
	})
}

// A machine with open connections, processes and data on its disk is saved
// and goes on; two others continue where it was saved.
func TestSavedGuestGoesOnTwice(t *testing.T) { onBoth(t, savedGuestGoesOnTwice) }

func savedGuestGoesOnTwice(t *testing.T, k kind) {
	attach := world(t)
	m, err := k.Start(deadline(t), k.spec(t, attach))
	if err != nil {
		t.Fatal(err)
	}
	parent := begin(t, m)
	parent.do(t, "head -c 8M /dev/urandom > /home/app/data && sha256sum /home/app/data > /home/app/sum")
	parent.write(t, "/home/app/busy.py", busy)
	parent.spawn(t, "sh", "-c", "while :; do :; done")
	parent.spawn(t, "python3", "/home/app/busy.py", echoServer)
	parent.await(t, "test -e /tmp/inner && test -e /tmp/outer")

	for range 3 {
		if err := m.(machine.Pauser).Pause(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if err := m.(machine.Pauser).Resume(deadline(t)); err != nil {
			t.Fatal(err)
		}
		parent.counts(t, "inner", "outer")
	}
	saved, err := m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: t.TempDir(), Leave: true})
	if err != nil {
		t.Fatal(err)
	}
	if saved.Close != nil {
		defer func() { _ = saved.Close() }()
	}
	parent.counts(t, "inner", "outer")
	parent.do(t, "echo changed later > /home/app/data")

	for range 2 {
		child := goOn(t, k.restore(t, k.spec(t, attach), saved), 2)
		child.do(t, "sha256sum -c /home/app/sum")
		child.counts(t, "inner")
		child.await(t, "test -e /tmp/outer-ended && test -e /tmp/blocked-ended")
		t.Logf("connections to the outside ended with: %s, %s", child.read(t, "/tmp/outer-ended"), child.read(t, "/tmp/blocked-ended"))
		child.do(t, `python3 -c 'import socket; s=socket.create_connection(("127.0.0.1",7001)); s.sendall(b"x"); assert s.recv(1)==b"x"'`)
		child.do(t, `python3 -c 'import socket; s=socket.create_connection(("20.0.0.7",7)); s.sendall(b"x"); assert s.recv(1)==b"x"'`)
		child.do(t, "rm /home/app/data")
	}
	parent.counts(t, "inner", "outer")
	parent.do(t, "test -e /home/app/data && ! test -e /tmp/outer-ended && ! test -e /tmp/blocked-ended")
}

// counts checks that counters go up.
func (g *guest) counts(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		g.await(t, "test $(cat /tmp/"+name+") -gt "+strconv.Itoa(g.count(t, name)))
	}
}

func (g *guest) count(t *testing.T, name string) int {
	t.Helper()
	n, err := strconv.Atoi(g.read(t, "/tmp/"+name))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A machine that has used most of its memory can be saved within its limit.
func TestSaveOfAFullGuest(t *testing.T) { onBoth(t, saveOfAFullGuest) }

func saveOfAFullGuest(t *testing.T, k kind) {
	card := func(nic machine.NIC) error {
		t.Cleanup(func() { _ = nic.File.Close() })
		return nil
	}
	m, err := k.Start(deadline(t), k.spec(t, card))
	if err != nil {
		t.Fatal(err)
	}
	g := begin(t, m)
	g.write(t, "/home/app/fill.py", "import os,time\nkept=[bytes([i%255+1])*(1<<20) for i in range(512)]\nopen('/tmp/filled','w').close()\ntime.sleep(1e6)\n")
	g.spawn(t, "python3", "/home/app/fill.py")
	g.await(t, "test -e /tmp/filled")
	before := copyBytes(t, m)
	saved, err := m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("saved in %v, %d MiB of %d", saved.StoodStill, saved.Bytes>>20, before>>20)
	if saved.Bytes < 512<<20 {
		t.Errorf("%d bytes were written for more than 512 MiB of random ones", saved.Bytes)
	}
	if err := m.Destroy(deadline(t)); err != nil {
		t.Fatal(err)
	}
	m = k.restore(t, k.spec(t, card), saved)
	goOn(t, m, 2).do(t, "pgrep -f fill.py")
	after := copyBytes(t, m)
	for _, bytes := range []int64{before, after} { // also where it is the saved file's
		if bytes < 512<<20 || bytes > memoryBytes+64<<20 {
			t.Errorf("a copy is said to take %d MiB", bytes>>20)
		}
	}
	if err := m.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func copyBytes(t *testing.T, m machine.Machine) int64 {
	t.Helper()
	stats, err := m.(machine.StatsReader).Stats(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return stats.CopyBytes
}
