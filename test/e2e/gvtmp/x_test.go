//go:build e2e

package gvtmp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
		"path/filepath"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
)

func network() machine.Network {
	return machine.Network{
		MTU: 1500, GuestMAC: net.HardwareAddr{2, 0xa7, 0, 0, 0, 2}, GatewayMAC: net.HardwareAddr{2, 0xa7, 0, 0, 0, 1},
		Guest4: netip.MustParsePrefix("10.87.0.2/24"), Gateway4: netip.MustParseAddr("10.87.0.1"),
		Guest6: netip.MustParsePrefix("fd00:a701::2/64"), Gateway6: netip.MustParseAddr("fd00:a701::1"),
	}
}

func TestX(t *testing.T) {
	bin, image := os.Getenv("ATOLL_TEST_BIN"), os.Getenv("ATOLL_TEST_IMAGE")
	d := gvisor.New(filepath.Join(bin, "runsc"), slog.Default())
	dir := filepath.Join(t.TempDir(), "m")
	os.Mkdir(dir, 0o700)
	s := machine.Spec{ID: "gvx1", Dir: dir, Hostname: "x", Image: machine.Image{File: image}, Agent: filepath.Join(bin, "atoll-agent"),
		MemoryBytes: 512 << 20, CPUs: 2, DiskBytes: 1 << 30, Network: network(),
		AttachNIC: func(nic machine.NIC) error { t.Cleanup(func() { nic.File.Close() }); return nil }}
	m, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Destroy(context.Background())
	session, err := link.Open(t.Context(), m.Link(), 1)
	if err != nil {
		t.Fatal(err)
	}
	control, err := session.Dial(t.Context(), link.KindControl, struct{}{})
	config := link.Config{Generation: 1, Hostname: "conformance", MemoryBytes: 512 << 20, TimeUnixNs: time.Now().UnixNano(),
		UserID: 1000, GroupID: 1000, User: "app", Home: "/home/app", MaxMessage: 1 << 20}
	link.SendControl(control, config)
	var ready link.Ready
	if err := link.ReceiveControl(control, &ready); err != nil {
		t.Fatal(err)
	}
	m.(machine.Settler).Settle()
	time.Sleep(500 * time.Millisecond)
	step := func(what string, f func() error) {
		begin := time.Now()
		err := f()
		fmt.Println(what, time.Since(begin), err)
	}
	update := func(control net.Conn) error {
		control.SetDeadline(time.Now().Add(3 * time.Second))
		if err := link.SendUpdate(control, link.Update{}); err != nil {
			return err
		}
		var ready link.Ready
		return link.ReceiveControl(control, &ready)
	}
	p := m.(machine.Pauser)
	sv := m.(machine.Saver)
	for range 3 {
		step("pause", func() error { return p.Pause(t.Context()) })
		c0 := cgroup.Open(s.ID).CPUTime()
		time.Sleep(200 * time.Millisecond)
		fmt.Println("cpu", cgroup.Open(s.ID).CPUTime()-c0)
		step("resume", func() error { return p.Resume(t.Context()) })
		step("update", func() error { return update(control) })
	}
	img := t.TempDir()
	var snap machine.Snapshot
	step("save leave", func() error { snap, err = sv.Save(t.Context(), machine.SaveOptions{Dir: img, Leave: true}); return err })
	fmt.Println(snap)
	step("update", func() error { return update(control) })
	step("pause", func() error { return p.Pause(t.Context()) })
	step("save paused leave", func() error { _, err := sv.Save(t.Context(), machine.SaveOptions{Dir: t.TempDir(), Leave: true}); return err })
	step("resume", func() error { return p.Resume(t.Context()) })
	step("update", func() error { return update(control) })
	step("save", func() error { _, err = sv.Save(t.Context(), machine.SaveOptions{Dir: t.TempDir()}); return err })
	fmt.Println("EXIT", <-m.Exited())
	for i := range 2 {
		s2 := s
		s2.ID = fmt.Sprint("gvy", i)
		s2.Dir = filepath.Join(t.TempDir(), "m")
		os.Mkdir(s2.Dir, 0o700)
		var m2 machine.Machine
		step("restore", func() error { m2, err = d.Restore(t.Context(), s2, snap); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer m2.Destroy(context.Background())
		go func() { fmt.Println("EXIT", <-m2.Exited()) }()
		session, err := link.Open(t.Context(), m2.Link(), 2)
		if err != nil {
			t.Fatal(err)
		}
		control, err := session.Dial(t.Context(), link.KindControl, struct{}{})
		link.SendControl(control, config)
		step("answer", func() error { return link.ReceiveControl(control, &ready) })
		step("settle", func() error { return m2.(machine.Settler).Settle() })
	}
}
