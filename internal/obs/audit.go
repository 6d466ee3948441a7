package obs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Event is one line of the audit log: who did what to which sandbox, and how
// it went. It holds names and outcomes, never contents.
type Event struct {
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`            // "create", "connect", "disconnect", "kill", "extend", "set_network", "set_idle", "pause", "resume", "fork", "power", "stopped", "rpc"
	Org     string    `json:"org,omitempty"`     //
	Token   string    `json:"token,omitempty"`   // id
	Sandbox string    `json:"sandbox,omitempty"` // id
	Trace   string    `json:"trace,omitempty"`   // id of the HTTP request
	Method  string    `json:"method,omitempty"`  // JSON-RPC method
	Outcome string    `json:"outcome,omitempty"` // "ok", an error code, a stop reason or, of "power", api.Power…

	// Of "disconnect": what the connection carried, in bytes and messages.
	BytesIn     int64 `json:"bytes_in,omitempty"`
	BytesOut    int64 `json:"bytes_out,omitempty"`
	MessagesIn  int64 `json:"messages_in,omitempty"`
	MessagesOut int64 `json:"messages_out,omitempty"`
}

const (
	auditBuffer = 64 << 10
	auditFlush  = time.Second
)

// Audit is an audit log in a file, one JSON object per line. When the file
// reaches its limit it is renamed to end in ".1", in place of an older one.
// Record may be called concurrently and blocks on nothing but the disk; lines
// are written within a second.
type Audit struct {
	path  string
	limit int64 // bytes
	now   func() time.Time

	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex // guards what follows
	file *os.File
	out  *bufio.Writer
	size int64
	err  error // the first failure since the last Flush
}

// OpenAudit opens, or makes, the log at path with a limit in bytes.
func OpenAudit(path string, limit int64) (*Audit, error) {
	a := &Audit{path: path, limit: limit, now: time.Now, stop: make(chan struct{}), done: make(chan struct{})}
	if err := a.open(); err != nil {
		return nil, err
	}
	go a.flushLoop()
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	a.file, a.size, a.out = f, info.Size(), bufio.NewWriterSize(f, auditBuffer)
	return nil
}

// Record writes one event; its time is set here.
func (a *Audit) Record(e Event) {
	e.Time = a.now().UTC().Truncate(time.Millisecond)
	line, err := json.Marshal(e)
	if err != nil {
		return // an Event always encodes
	}
	line = append(line, '\n')
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size+int64(len(line)) > a.limit {
		a.keep(a.rotate())
	}
	n, err := a.out.Write(line)
	a.size += int64(n)
	a.keep(err)
}

func (a *Audit) keep(err error) {
	if a.err == nil {
		a.err = err
	}
}

// rotate must be called with mu held. When it fails the old file grows on.
func (a *Audit) rotate() error {
	if err := a.out.Flush(); err != nil {
		return err
	}
	if err := os.Rename(a.path, a.path+".1"); err != nil {
		return err
	}
	old := a.file
	if err := a.open(); err != nil {
		return err
	}
	return old.Close()
}

// Flush writes out what is buffered and returns the first failure since the
// last call.
func (a *Audit) Flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep(a.out.Flush())
	err := a.err
	a.err = nil
	if err != nil {
		a.out.Reset(a.file) // a failed Writer fails for good otherwise
	}
	return err
}

func (a *Audit) flushLoop() {
	defer close(a.done)
	tick := time.NewTicker(auditFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = a.Flush() // the disk is full: there is nobody to tell but the log on the same disk
		case <-a.stop:
			return
		}
	}
}

// Close writes everything out and closes the file. Record must not be called
// afterwards.
func (a *Audit) Close(context.Context) error {
	close(a.stop)
	<-a.done
	return errors.Join(a.Flush(), a.file.Close())
}
