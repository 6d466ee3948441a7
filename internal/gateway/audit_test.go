package gateway

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/machine"
)

// recorder is an audit.Log in memory.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Add(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprint(rec.Kind, " ", rec.Name, " ", rec.Protocol, " ", rec.Port, " ", rec.Decision, " ", rec.Sent, "/", rec.Received))
}

func (r *recorder) sorted() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.lines))
}

// What a guest does and tries is recorded: connections, and names that are
// refused, also those of which no address is left. Other questions aren't.
func TestAudit(t *testing.T) {
	var log recorder
	s := start(t, machine.NICTap, 1500, func(cfg *Config) {
		cfg.Audit, cfg.Policy.Allow = &log, parse(t, "a.test", "inside.test")
	})
	s.world.Name("a.test", public4)
	s.world.Name("inside.test", "10.0.0.1")
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	udp, err := s.guest.DialUDP("10.9.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, name := range []string{"a.test.", "b.test.", "inside.test."} {
		lookup(t, udp, name)
	}
	if _, err := s.guest.DialTCP(timeout(t), public4+":443"); err == nil {
		t.Error("an address that isn't listed was reached")
	}
	v4, _ := s.gw.names.Assign("a.test")
	c := dial(t, s, v4.String()+":80")
	_, _ = c.Write([]byte("hello\n"))
	_, _ = c.Read(make([]byte, 6))
	_ = c.Close()
	s.guest.Close()
	_ = s.gw.Close()
	want := []string{
		"connection  tcp 443 refuse 0/0",
		"connection a.test tcp 80 allow 6/6",
		"name b.test dns 0 refuse 0/0",
		"name inside.test dns 0 refuse 0/0",
	}
	if got := log.sorted(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
