package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A session begins with a hello from the shim, which the agent sends back.
// An agent can have had earlier sessions on the same stream, which ended
// anywhere: in a machine that was restored, say. So each end skips what is
// left of them until it reads a hello that it expects, and an agent that has
// sent one back waits, silent, for the first frame of the session, or for
// another hello if the first was only a probe.
const (
	helloSize = 16 // the magic, and random bytes that tell one hello from another
	magicSize = 8
	magicOpen = "atollLNK" // a session follows
	magicAsk  = "atollASK" // a probe: nothing follows but another hello

	// maxSkipped bounds what is left of an earlier session, in bytes: a window
	// for each of its streams.
	maxSkipped = maxStreams * streamWindow
)

// ErrNoHello is returned when the other end of a link says something else for
// too long.
var ErrNoHello = errors.New("link: no hello from the other end")

// probeAgain is after what time a probe is repeated: whoever had the other end
// in an earlier session may have swallowed it.
const probeAgain = 100 * time.Millisecond

// Probe returns when the agent answers. It leaves the agent waiting for a
// session, possibly with answers under way, which are skipped.
func Probe(ctx context.Context, conn net.Conn) error {
	hello := newHello(magicAsk)
	probing, stop := context.WithCancel(ctx)
	var repeats sync.WaitGroup
	repeats.Go(func() { repeat(probing, conn, hello) })
	err := greet(ctx, conn, hello)
	stop()
	repeats.Wait()
	if ctx.Err() == nil { // the repetition may have been interrupted
		_ = conn.SetWriteDeadline(time.Time{})
	}
	return err
}

// repeat sends a hello again and again until ctx ends. Half a hello is
// skipped by the other end like anything else.
func repeat(ctx context.Context, conn net.Conn, hello []byte) {
	interrupted := make(chan struct{})
	interrupt := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = conn.SetWriteDeadline(time.Now())
	})
	defer func() {
		if !interrupt() {
			<-interrupted // or it would interrupt a later write
		}
	}()
	again := time.NewTicker(probeAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		if _, err := conn.Write(hello); err != nil {
			return
		}
	}
}

func newHello(magic string) []byte {
	hello := append(make([]byte, 0, helloSize), magic...)
	hello = append(hello, make([]byte, helloSize-magicSize)...)
	_, _ = rand.Read(hello[magicSize:])
	return hello
}

// greet sends a hello and skips everything before the answer.
func greet(ctx context.Context, conn net.Conn, hello []byte) error {
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer interrupt()
	_, err := conn.Write(hello)
	if err == nil {
		_, err = scan(conn, maxSkipped, func(window []byte) bool { return bytes.Equal(window, hello) })
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("greet agent: %w", err)
	}
	return nil
}

// awaitHello answers hellos until one opens a session.
func awaitHello(conn io.ReadWriter) error {
	for {
		hello, err := scan(conn, maxSkipped, func(window []byte) bool {
			magic := string(window[:magicSize])
			return magic == magicOpen || magic == magicAsk
		})
		if err != nil {
			return fmt.Errorf("await hello: %w", err)
		}
		if _, err := conn.Write(hello); err != nil {
			return fmt.Errorf("answer hello: %w", err)
		}
		if string(hello[:magicSize]) == magicOpen {
			return nil
		}
	}
}

// scan reads up to the end of the first window that is wanted, and not a byte
// further. It skips so many bytes at most.
func scan(r io.Reader, most int, wanted func(window []byte) bool) ([]byte, error) {
	window := make([]byte, helloSize)
	if _, err := io.ReadFull(r, window); err != nil {
		return nil, err
	}
	for skipped := 0; !wanted(window); {
		// What may begin a hello says how much can be read at once.
		n := misses(window)
		if skipped += n; skipped > most {
			return nil, ErrNoHello
		}
		copy(window, window[n:])
		if _, err := io.ReadFull(r, window[helloSize-n:]); err != nil {
			return nil, err
		}
	}
	return window, nil
}

// misses returns how far a window that is no hello can move on without
// passing over the start of one.
func misses(window []byte) int {
	for n := 1; n < len(window); n++ {
		rest := window[n:min(n+magicSize, len(window))]
		if bytes.HasPrefix([]byte(magicOpen), rest) || bytes.HasPrefix([]byte(magicAsk), rest) {
			return n
		}
	}
	return len(window)
}
