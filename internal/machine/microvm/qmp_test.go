package microvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}` + "\r\n"

// qemu is the other end of a monitor.
type qemu struct {
	net.Conn
	in *bufio.Reader
}

func (q qemu) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(q, text); err != nil {
		t.Error(err)
	}
}

// hear returns the next command.
func (q qemu) hear(t *testing.T) (command struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments"`
}) {
	t.Helper()
	line, err := q.in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &command)
	}
	if err != nil {
		t.Error(err)
	}
	return command
}

// executed is the name of the command in a line.
func executed(t *testing.T, line []byte) string {
	t.Helper()
	var command struct {
		Execute string `json:"execute"`
	}
	if err := json.Unmarshal(line, &command); err != nil {
		t.Error(err)
	}
	return command.Execute
}

// monitored returns a monitor and its qemu. Events go to the channel.
func monitored(t *testing.T) (*monitor, qemu, chan event) {
	t.Helper()
	ours, theirs := net.Pipe()
	events := make(chan event, 16)
	m := openMonitor(ours, func(e event) { events <- e })
	t.Cleanup(func() { _ = theirs.Close(); m.close() })
	return m, qemu{theirs, bufio.NewReader(theirs)}, events
}

// within bounds a wait that should not be one.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestMonitorAnswers(t *testing.T) {
	m, q, events := monitored(t)
	go func() {
		q.say(t, greeting)
		if c := q.hear(t); c.Execute != "query-status" || c.Arguments != nil {
			t.Errorf("heard %+v", c)
		}
		q.say(t, `{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`+"\r\n")
		q.say(t, `{"return": {"status": "running"}}`+"\r\n")
		if c := q.hear(t); c.Execute != "stop" || c.Arguments["x"] != "y" {
			t.Errorf("heard %+v", c)
		}
		q.say(t, `{"error": {"class": "GenericError", "desc": "no \u001b[31mway"}}`+"\n")
		q.hear(t)
		q.say(t, `{"return": {}}`+"\n")
	}()
	var status struct{ Status string }
	if err := m.run(within(t), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("%+v, %v", status, err)
	}
	if e := <-events; e.Name != "SHUTDOWN" || !e.Data.Guest || e.Data.Reason != "guest-reset" {
		t.Errorf("event %+v", e)
	}
	err := m.run(within(t), "stop", map[string]any{"x": "y"}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "qemu stop: ") || strings.ContainsRune(err.Error(), '\x1b') {
		t.Errorf("an error: %v", err)
	}
	if err := m.run(within(t), "cont", nil, nil); err != nil {
		t.Error(err)
	}
}

// What can't be QEMU's ends the monitor, and with it the command that waits.
func TestMonitorEndsAtNonsense(t *testing.T) {
	for name, said := range map[string]string{
		"garbage":            "\x00\xff garbage\n",
		"not an object":      "[1]\n",
		"half a message":     `{"return": {`,
		"an over-long line":  `{"return": "` + strings.Repeat("x", maxQMPLine) + "\"}\n",
		"an answer too many": "{\"return\": {}}\n{\"return\": {}}\n",
		"a deep message":     strings.Repeat("[", 1<<17) + "\n",
		"the end":            "",
	} {
		t.Run(name, func(t *testing.T) {
			m, q, _ := monitored(t)
			go func() {
				q.hear(t)
				_, _ = io.WriteString(q, said) // which may be cut short
				if !strings.HasSuffix(said, "\n") {
					_ = q.Close()
				}
			}()
			err := m.run(within(t), "stop", nil, nil)
			if name == "an answer too many" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, errMonitor) {
				t.Errorf("%v; want %v", err, errMonitor)
			}
			select {
			case <-m.done:
			case <-within(t).Done():
				t.Error("the monitor goes on")
			}
			if err := m.run(within(t), "cont", nil, nil); !errors.Is(err, errMonitor) {
				t.Errorf("the next command: %v; want %v", err, errMonitor)
			}
		})
	}
}

// An answer that nobody asked for is not the next command's.
func TestMonitorTakesNoAnswerInAdvance(t *testing.T) {
	m, q, _ := monitored(t)
	q.say(t, "{\"return\": {}}\n")
	<-m.done
	if err := m.run(within(t), "stop", nil, nil); !errors.Is(err, errMonitor) {
		t.Errorf("%v; want %v", err, errMonitor)
	}
}

// The answer to a command that was given up is not taken for the next one's.
func TestMonitorOutlivesAGivenUpCommand(t *testing.T) {
	m, q, _ := monitored(t)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			q.hear(t)
			cancel()
		}()
		if err := m.run(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%v; want %v", err, context.Canceled)
		}
	}
	go func() {
		q.hear(t)
		q.say(t, `{"return": {"status": "the first's"}}`+"\n"+`{"error": {"desc": "the second's"}}`+"\n"+`{"return": {"status": "its own"}}`+"\n")
	}()
	var status struct{ Status string }
	if err := m.run(within(t), "query-status", nil, &status); err != nil || status.Status != "its own" {
		t.Errorf("%+v (%v)", status, err)
	}
}

// A QEMU that answers what it has not read holds up nobody.
func TestMonitorEndsAtAnswersToUnreadCommands(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	busy := make(chan struct{})
	m := openMonitor(ours, func(event) { <-busy })
	q := qemu{theirs, bufio.NewReader(theirs)}
	asked := func() {
		t.Helper()
		for is := false; !is; {
			m.mu.Lock()
			is = m.asked
			m.mu.Unlock()
			if within(t).Err() != nil {
				t.Fatal("no command")
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- m.run(ctx, "stop", nil, nil) }()
	asked()
	q.say(t, `{"return": {}}`+"\n"+`{"event": "STOP"}`+"\n"+`{"return": {}}`+"\n")
	if err := <-failed; !errors.Is(err, errMonitor) {
		t.Errorf("%v; want %v", err, errMonitor)
	}
	if err := m.run(within(t), "cont", nil, nil); !errors.Is(err, errMonitor) {
		t.Errorf("the next command: %v; want %v", err, errMonitor)
	}
	asked()
	close(busy)
	select {
	case <-m.done:
	case <-within(t).Done():
		t.Fatal("the monitor waits for somebody to take an answer")
	}
	if err := m.run(within(t), "cont", nil, nil); !errors.Is(err, errMonitor) {
		t.Errorf("the last command: %v; want %v", err, errMonitor)
	}
}

// An answer that is the last thing that is said is an answer.
func TestMonitorTakesTheLastAnswer(t *testing.T) {
	for range 100 {
		m, q, _ := monitored(t)
		go func() {
			q.hear(t)
			q.say(t, "{\"return\": {}}\n")
			_ = q.Close()
		}()
		if err := m.run(within(t), "stop", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A closed monitor has delivered what was said before.
func TestMonitorHearsTheLastEvent(t *testing.T) {
	m, q, events := monitored(t)
	go func() {
		q.say(t, `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`+"\n")
		_ = q.Close()
	}()
	m.close()
	select {
	case e := <-events:
		if e.Name != "SHUTDOWN" {
			t.Errorf("event %+v", e)
		}
	default:
		t.Error("the event was lost")
	}
}

// told is a connection on which everything was said already. It counts what is
// read at once.
type told struct {
	net.Conn // its other methods are not used
	r        io.Reader
	most     int
}

func (c *told) Read(p []byte) (int, error) {
	c.most = max(c.most, len(p))
	return c.r.Read(p)
}
func (*told) Write(p []byte) (int, error)      { return len(p), nil }
func (*told) Close() error                     { return nil }
func (*told) SetReadDeadline(time.Time) error  { return nil }
func (*told) SetWriteDeadline(time.Time) error { return nil }

// FuzzMonitor: whatever QEMU says, the monitor ends, holds no more than one
// line, and passes on only events with a name.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte("{\"return\": {}}\n"))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n"))
	f.Add([]byte(`{"event": "X", "data": [1]}` + "\n" + `{"error": null}` + "\n"))
	f.Add([]byte("{\"id\": 1e99, \"return\": 1}\n\n"))
	f.Add(bytes.Repeat([]byte("x"), maxQMPLine+1))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn := &told{r: bytes.NewReader(said)}
		m := openMonitor(conn, func(e event) {
			if e.Name == "" {
				t.Error("an event without a name")
			}
		})
		var result struct{ Status string }
		_ = m.run(t.Context(), "query-status", nil, &result)
		<-m.done
		if conn.most > maxQMPLine || len(m.answers) > 1 {
			t.Errorf("read %d bytes at once, %d answers wait", conn.most, len(m.answers))
		}
	})
}
