package microvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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
	asked   atomic.Bool   // a command is waiting
	done    chan struct{} // closed by read when nothing more comes
	turn    sync.Mutex    // held by a command
}

type event struct {
	Name string `json:"event"`
	Data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
	} `json:"data"`
}

type answer struct {
	ID     int64           `json:"id"`
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
	if !m.asked.Swap(false) {
		return false // nobody asked, and the next who does must not take it for theirs
	}
	select {
	case m.answers <- a:
		return true
	default:
		return false // the last one was given up
	}
}

// afterthought is how long the answer to a command is still waited for when
// nobody wants it any more: a command that QEMU has may have been carried out,
// and without its answer nobody knows.
const afterthought = 5 * time.Second

// run sends a command and reads its answer into result, if that is not nil. A
// command that was answered is not undone by the end of ctx. A monitor of
// which a command was given up is closed.
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
	if err := ctx.Err(); err != nil {
		return err
	}
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
	m.asked.Store(true)
	if _, err := m.conn.Write(append(raw, '\n')); err != nil {
		return errors.Join(errMonitor, err)
	}
	select {
	case a := <-m.answers:
		return a.into(result)
	case <-m.done:
	case <-ctx.Done():
		return m.giveUp(ctx.Err(), result)
	}
	select { // the answer may have been the last thing that came
	case a := <-m.answers:
		return a.into(result)
	default:
		return errMonitor
	}
}

func (m *monitor) giveUp(because error, result any) error {
	patience := time.NewTimer(afterthought)
	defer patience.Stop()
	select {
	case a := <-m.answers:
		return a.into(result)
	case <-m.done:
	case <-patience.C:
		_ = m.conn.Close() // the answer to come would be taken for the next one's
	}
	return because
}

func (a answer) into(result any) error {
	if a.Error != nil {
		return fmt.Errorf("%.256q", a.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Return, result)
}
