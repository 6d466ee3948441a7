package gateway

import (
	"net"
	"runtime"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/machine"
)

// used returns the live heap in bytes.
func used() int64 {
	runtime.GC()
	runtime.GC() // the second frees what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// There is a gateway in the shim of every sandbox.
func TestIdleIsLight(t *testing.T) {
	guest, nic, err := gatewaytest.NewGuest(gatewaytest.Network(16384), machine.NICTap)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	heap, goroutines := used(), runtime.NumGoroutine()
	gw, err := New(Config{Network: gatewaytest.Network(16384), HostAddrs: noHost, Upstream: gatewaytest.NewInternet(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer gw.Close()
	if err := gw.Attach(nic); err != nil {
		t.Fatal(err)
	}
	heap, goroutines = used()-heap, runtime.NumGoroutine()-goroutines
	t.Logf("%d KiB, %d goroutines", heap>>10, goroutines)
	if heap > 1<<20 {
		t.Errorf("an idle gateway holds %d bytes", heap)
	}
	if goroutines > 4+2*runtime.GOMAXPROCS(0) {
		t.Errorf("an idle gateway runs %d goroutines", goroutines)
	}
}

// A connection that says nothing holds no copy buffer.
func TestIdleConnectionsAreLight(t *testing.T) {
	s := start(t, machine.NICStream, 16384, nil)
	release := make(chan struct{})
	defer close(release)
	s.world.ServeTCP(public4+":80", func(c net.Conn) { <-release })
	const n = 200
	before := used()
	for range n {
		defer dial(t, s, public4+":80").Close()
	}
	per := (used() - before) / n
	t.Logf("%d bytes for both ends of a connection", per)
	if per > 40<<10 {
		t.Errorf("an idle connection holds %d bytes", per)
	}
}
