// Package lives gives the agent of a machine that can be restored the
// connections of its successive lives.
//
// A restored gVisor machine has the descriptors that the saved one had, with
// new sockets behind some of them. Nothing tells the agent: a read that was
// blocked goes on and gets what the new other end says, in the middle of a
// session that the new end knows nothing of. So there is a second socket, the
// bell. The host sends one byte on it to a machine that it restored; the agent
// ends the session, makes sure that nobody is reading the link any more, and
// sends the byte back. Only then does the host use the link. Another byte asks
// the agent to end the machine.
package lives

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Link is a link whose other end is another one in each life. Next is for one
// caller at a time; everything else may be called concurrently.
type Link struct {
	file *os.File
	gone atomic.Bool // the other end has closed it

	mu   sync.Mutex
	life *life // the latest; nil before the first Next
}

// New makes a Link of the two sockets, which must be non-blocking, so that
// reads can be interrupted. They are the caller's to close, at the end of the
// process: until then the bell is listened to.
func New(link, bell *os.File) *Link {
	l := &Link{file: link}
	go l.listen(bell)
	return l
}

// Next returns the connection of the next session: the first at once, any
// other when the one before has ended. Its Read and Write return io.EOF when
// the machine was restored. Closing it ends the session and no more. Next
// returns io.EOF when the other end has closed the link.
func (l *Link) Next(ctx context.Context) (io.ReadWriteCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if l.gone.Load() {
		return nil, io.EOF
	}
	if l.life != nil {
		l.life.end()
	}
	l.life = &life{link: l}
	return l.life, nil
}

// endOfMachine is the byte that asks for the end of the last life. It is not
// answered.
const endOfMachine = 2

// listen ends a life for each byte from the bell.
func (l *Link) listen(bell *os.File) {
	var b [1]byte
	for {
		if _, err := io.ReadFull(bell, b[:]); err != nil {
			return // closed
		}
		if b[0] == endOfMachine {
			l.gone.Store(true)
		}
		l.mu.Lock()
		if l.life != nil {
			l.life.end()
		}
		l.mu.Unlock()
		if b[0] == endOfMachine {
			return
		}
		if _, err := bell.Write(b[:]); err != nil {
			return
		}
	}
}

// life is the link during one session.
type life struct {
	link    *Link
	over    atomic.Bool
	reading sync.Mutex // held by a Read
	writing sync.Mutex // held by a Write
}

// Read reads from the link while this life lasts.
func (c *life) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.over.Load() {
		return 0, io.EOF
	}
	n, err := c.link.file.Read(p)
	return n, c.failed(err)
}

// Write writes to the link while this life lasts.
func (c *life) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.over.Load() {
		return 0, io.EOF
	}
	n, err := c.link.file.Write(p)
	return n, c.failed(err)
}

// Close ends this life.
func (c *life) Close() error {
	c.end()
	return nil
}

// failed is what a caller is told of an error of the file.
func (c *life) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case c.over.Load():
		return io.EOF // interrupted
	}
	c.link.gone.Store(true)
	return err
}

// end returns when nobody uses the file in this life any more.
func (c *life) end() {
	if c.over.Swap(true) {
		return
	}
	_ = c.link.file.SetDeadline(time.Now())
	c.reading.Lock()
	defer c.reading.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.link.file.SetDeadline(time.Time{})
}
