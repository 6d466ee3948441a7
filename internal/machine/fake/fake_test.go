package fake_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/fake"
	"github.com/atollhq/atoll/internal/machine/machinetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	machinetest.Run(t, machinetest.Harness{
		New:  func(*testing.T) machine.Driver { return fake.New(readyAgent) },
		Spec: spec, Freezes: true,
		Crash: func(_ *testing.T, d machine.Driver, m machine.Machine) {
			d.(*fake.Driver).Crash(m.State().ID, machine.Exit{Reason: machine.ExitCrashed})
		},
	})
}

func spec(t *testing.T) machine.Spec {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return machine.Spec{Image: machine.Image{File: file}, Agent: file, Network: machine.Network{MTU: 1500}}
}

// readyAgent answers what comes on the control stream, as the real agent does.
func readyAgent(ctx context.Context, conn net.Conn) {
	session, err := link.Serve(conn)
	if err != nil {
		return
	}
	defer func() { _ = session.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	raw, err := session.Accept()
	if err != nil {
		return
	}
	stream, err := link.ReadPreamble(raw)
	if err != nil {
		return
	}
	for {
		var message link.ToAgent
		if link.ReceiveControl(stream, &message) != nil || link.SendControl(stream, link.Ready{Version: "fake"}) != nil {
			return
		}
	}
}
