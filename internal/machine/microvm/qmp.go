package microvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// maxQMPLine bounds one message of QEMU, in bytes. QEMU is behind the guest,
// and may be the guest's.
const maxQMPLine = 1 << 20

// errMonitor is why a command got no answer.
var errMonitor = errors.New("qemu's monitor is gone")

// monitor speaks QMP, QEMU's machine protocol
// (https://www.qemu.org/docs/master/interop/qmp-spec.html), one command at a
// time. Its methods may be called concurrently.
type monitor struct {
	conn    net.Conn
	onEvent func(event)
	answers chan answer   // to the one command that waits
	done    chan struct{} // closed by read when nothing more comes
	turn    sync.Mutex    // held by a command

	mu      sync.Mutex // guards the following
	asked   bool       // a command is waiting
	givenUp int        // commands whose answers come first, and to nobody
}

type event struct {
	Name string `json:"event"`
	Data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
	} `json:"data"`
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// openMonitor owns conn from then on. Events are handed to onEvent, which must
// not block.
func openMonitor(conn net.Conn, onEvent func(event)) *monitor {
	m := &monitor{conn: conn, onEvent: onEvent, answers: make(chan answer, 1), done: make(chan struct{})}
	go m.read()
	return m
}

// lastWords is how long what an ended QEMU said is waited for. It is there
// already, unless somebody else has QEMU's end.
const lastWords = 2 * time.Second

// close ends the monitor of a QEMU that has ended, after its last event.
func (m *monitor) close() {
	_ = m.conn.SetReadDeadline(time.Now().Add(lastWords))
	<-m.done
}

func (m *monitor) read() {
	defer close(m.done)
	defer func() { _ = m.conn.Close() }()
	in := bufio.NewReaderSize(m.conn, maxQMPLine)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil || !m.take(line) {
			return
		}
	}
}

// take handles one message and reports whether to go on.
func (m *monitor) take(line []byte) bool {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return false
	}
	if e.Name != "" {
		m.onEvent(e)
		return true
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return false
	}
	if a.Return == nil && a.Error == nil {
		return true // the greeting
	}
	return m.deliver(a)
}

// deliver hands an answer to the command that it is for: they come in order.
func (m *monitor) deliver(a answer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.givenUp > 0:
		m.givenUp--
	case !m.asked:
		return false // nobody asked, and the next who does must not take it for theirs
	default:
		m.asked = false
		select {
		case m.answers <- a:
		default: // there is one for a command that could not be sent: QEMU answers unheard
			return false
		}
	}
	return true
}

// ask notes that a command waits; giveUp that it does no more, unless its
// answer is there.
func (m *monitor) ask() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = true
}

func (m *monitor) giveUp() (given bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if given = m.asked; given {
		m.asked = false
		m.givenUp++
	}
	return given
}

// run sends a command and reads its answer into result, if that is not nil.
// When ctx ends first, the command may yet be carried out, before the next.
func (m *monitor) run(ctx context.Context, command string, arguments, result any) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	err := m.exchange(ctx, command, arguments, result)
	if err != nil {
		return fmt.Errorf("qemu %s: %w", command, err)
	}
	return nil
}

func (m *monitor) exchange(ctx context.Context, command string, arguments, result any) error {
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments}
	raw, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = m.conn.SetWriteDeadline(deadline)
	} else {
		_ = m.conn.SetWriteDeadline(time.Time{})
	}
	m.ask()
	if _, err := m.conn.Write(append(raw, '\n')); err != nil {
		_ = m.conn.Close() // half of it may be there
		return errors.Join(errMonitor, err)
	}
	select {
	case a := <-m.answers:
		return a.into(result)
	case <-m.done:
		select { // the answer may have been the last thing that came
		case a := <-m.answers:
			return a.into(result)
		default:
			return errMonitor
		}
	case <-ctx.Done():
		if !m.giveUp() {
			return (<-m.answers).into(result)
		}
		return ctx.Err()
	}
}

// refusal is QEMU's reason not to do what it was told.
type refusal string

func (r refusal) Error() string { return fmt.Sprintf("%.256q", string(r)) }

func (a answer) into(result any) error {
	if a.Error != nil {
		return refusal(a.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Return, result)
}
