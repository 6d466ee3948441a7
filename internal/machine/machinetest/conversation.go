package machinetest

import (
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// silence is for how long a machine that stands still is listened to. One that
// doesn't would have to be that slow to get away with it.
const silence = 300 * time.Millisecond

// conversation is a session with a machine's agent.
type conversation struct {
	control net.Conn
}

// open opens a session of the link.
func open(t *testing.T, m machine.Machine, generation uint32) *conversation {
	t.Helper()
	session, err := link.Open(deadline(t), m.Link(), generation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	control, err := session.Dial(deadline(t), link.KindControl, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return &conversation{control: control}
}

// continued opens the link of a restored machine and has the agent answer.
func continued(t *testing.T, m machine.Machine, generation uint32) *conversation {
	t.Helper()
	c := open(t, m, generation)
	entropy := make([]byte, 32)
	_, _ = rand.Read(entropy)
	c.ask(t, struct {
		Resume link.Resume `json:"resume"`
	}{link.Resume{Generation: generation, TimeUnixNs: time.Now().UnixNano(), Entropy: entropy, CutNetwork: true}})
	return c
}

// update is a message that changes nothing.
var update = struct {
	Update link.Update `json:"update"`
}{}

// answers checks that the machine runs.
func (c *conversation) answers(t *testing.T) {
	t.Helper()
	c.ask(t, update)
}

// standsStill checks that the machine doesn't run: a question is not answered
// until then.
func (c *conversation) standsStill(t *testing.T, then func()) {
	t.Helper()
	c.send(t, update)
	_ = c.control.SetReadDeadline(time.Now().Add(silence))
	n, err := c.control.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a machine that stands still said %d bytes (%v)", n, err)
	}
	then()
	c.receive(t)
}

func (c *conversation) ask(t *testing.T, message any) {
	t.Helper()
	c.send(t, message)
	c.receive(t)
}

func (c *conversation) send(t *testing.T, message any) {
	t.Helper()
	_ = c.control.SetWriteDeadline(time.Now().Add(patience))
	if err := link.SendControl(c.control, message); err != nil {
		t.Fatalf("send to the agent: %v", err)
	}
}

func (c *conversation) receive(t *testing.T) {
	t.Helper()
	_ = c.control.SetReadDeadline(time.Now().Add(patience))
	var ready link.Ready
	if err := link.ReceiveControl(c.control, &ready); err != nil {
		t.Fatalf("no answer from the agent: %v", err)
	}
	if ready.Error != "" {
		t.Fatalf("agent: %s", ready.Error)
	}
}
