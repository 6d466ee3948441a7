package gateway

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/google/go-cmp/cmp"
)

func parse(t testing.TB, entries ...string) *policy.List {
	t.Helper()
	l, err := policy.ParseList(entries)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func listed(t *testing.T, entries ...string) setup {
	t.Helper()
	s := start(t, machine.NICTap, 1500, func(cfg *Config) { cfg.Policy.Allow = parse(t, entries...) })
	s.world.Name("a.test", public4)
	s.world.Name("inside.test", "10.0.0.1")
	s.world.ServeTCP(public4+":80", gatewaytest.Echo)
	return s
}

// A virtual address leads to the name that it stands for, and only where the
// list says so.
func TestConnectionsByName(t *testing.T) {
	s := listed(t, "a.test:80", "inside.test")
	v4, v6 := s.gw.names.Assign("a.test")
	inside, _ := s.gw.names.Assign("inside.test")
	other, _ := s.gw.names.Assign("b.test")
	for _, dest := range []netip.AddrPort{netip.AddrPortFrom(v4, 80), netip.AddrPortFrom(v6, 80)} {
		conn, err := s.guest.DialTCP(t.Context(), dest.String())
		if err != nil {
			t.Fatalf("%s: %v", dest, err)
		}
		_, _ = conn.Write([]byte("hello"))
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			t.Errorf("%s: %v", dest, err)
		}
		_ = conn.Close()
	}
	before := s.world.Attempts()
	for _, dest := range []netip.AddrPort{
		netip.AddrPortFrom(v4, 443),                           // another port than the list's
		netip.AddrPortFrom(other, 80),                         // a name that isn't listed
		netip.AddrPortFrom(inside, 80),                        // a name that leads inside
		netip.MustParseAddrPort(public4 + ":80"),              // the address instead of the name
		netip.AddrPortFrom(names.Virtual4.Addr().Next(), 999), // nobody's
	} {
		if conn, err := s.guest.DialTCP(t.Context(), dest.String()); err == nil {
			t.Errorf("%s: connected", dest)
			_ = conn.Close()
		}
	}
	var reached []gatewaytest.Attempt
	for _, a := range s.world.Attempts()[len(before):] {
		if a.Network != "dns" {
			reached = append(reached, a)
		}
	}
	if len(reached) > 0 {
		t.Errorf("reached upstream: %v", reached)
	}
}

func TestEmptyListReachesNothing(t *testing.T) {
	s := listed(t)
	for _, dest := range []string{public4 + ":80", public4 + ":443", "[2606:4700::1111]:80"} {
		if conn, err := s.guest.DialTCP(t.Context(), dest); err == nil {
			t.Errorf("%s: connected", dest)
			_ = conn.Close()
		}
	}
	udp, err := s.guest.DialUDP(public4 + ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_, _ = udp.Write([]byte("x"))
	_ = udp.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = udp.Read(make([]byte, 1))
	if diff := cmp.Diff(0, len(s.world.Attempts())); diff != "" {
		t.Errorf("reached upstream: %v", s.world.Attempts())
	}
}

// A list that is replaced cuts what it no longer allows, and nothing else.
func TestReplacedListCuts(t *testing.T) {
	s := listed(t, "a.test", public4)
	v4, _ := s.gw.names.Assign("a.test")
	named, err := s.guest.DialTCP(t.Context(), netip.AddrPortFrom(v4, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	literal, err := s.guest.DialTCP(t.Context(), public4+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer literal.Close()
	s.gw.SetPolicy(parse(t, public4), nil)
	_ = named.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := named.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection that is no longer allowed: %v", err)
	}
	_, _ = literal.Write([]byte("x"))
	_ = literal.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(literal, make([]byte, 1)); err != nil {
		t.Errorf("the connection that is still allowed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if conn, err := s.guest.DialTCP(ctx, netip.AddrPortFrom(v4, 80).String()); err == nil {
		t.Error("connected to a name that is no longer allowed")
		_ = conn.Close()
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
