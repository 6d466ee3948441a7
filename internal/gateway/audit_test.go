package gateway

import (
	"fmt"
	"io"
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
	notes []string
}

func (r *recorder) Add(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprint(rec.Kind, " ", rec.Name, " ", rec.Protocol, " ", rec.Port, " ", rec.Decision, " ", rec.Sent, "/", rec.Received))
	r.notes = append(r.notes, rec.Note)
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

// The record of a connection that a new list has cut says so, and no other.
func TestAuditOfCutConnections(t *testing.T) {
	var log records
	s := start(t, machine.NICTap, 1500, func(cfg *Config) { cfg.Audit, cfg.Policy.Allow = &log, parse(t, "a.test", public4) })
	s.world.Name("a.test", public4)
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	v4, _ := s.gw.names.Assign("a.test")
	named, literal := dial(t, s, v4.String()+":80"), dial(t, s, public4+":80")
	defer named.Close()
	defer literal.Close()
	s.gw.SetPolicy(parse(t, public4), nil)
	_, _ = io.Copy(io.Discard, named) // ends with its reset
	_ = s.gw.Close()
	notes := map[string]string{}
	for _, r := range log.all {
		notes[r.Name] = r.Note
	}
	const cut = "cut: no longer allowed"
	if notes["a.test"] != cut || notes[""] == cut {
		t.Errorf("got %q", notes)
	}
}
