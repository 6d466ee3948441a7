package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// TestHelloAfterAnEarlierSession: both ends skip what is left of one.
func TestHelloAfterAnEarlierSession(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := net.Pipe()
	left := append(frame(0, 0, 1, "half a frame, atollLN"), "atollLatollASatollLN"...)
	agent := make(chan error, 1)
	go func() { _, _ = b.Write(left) }() // nothing is buffered between the two
	go func() {
		guest, err := Serve(b)
		if err == nil {
			err = guest.Close()
		}
		agent <- err
	}()
	if err := Probe(ctx, a); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(left); err != nil {
		t.Fatal(err)
	}
	host, err := Open(ctx, a, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := <-agent; err != nil {
		t.Fatal(err)
	}
}

// TestProbeIsRepeated: an earlier session may take the first for its own.
func TestProbeIsRepeated(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := net.Pipe()
	agent := make(chan error, 1)
	go func() {
		if _, err := io.CopyN(io.Discard, b, helloSize+3); err != nil { // a whole one, and the start of the next
			agent <- err
			return
		}
		guest, err := Serve(b)
		if err == nil {
			err = guest.Close()
		}
		agent <- err
	}()
	if err := Probe(ctx, a); err != nil {
		t.Fatal(err)
	}
	host, err := Open(ctx, a, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := <-agent; err != nil {
		t.Fatal(err)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	defer a.Close()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Probe(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent agent: %v", err)
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	defer a.Close()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, a, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent agent: %v", err)
	}
}

// TestScanSkipsSoManyBytes: they are counted, not the reads that they take.
func TestScanSkipsSoManyBytes(t *testing.T) {
	const most = 1000
	for _, filler := range []string{"x", "atollLatoll", "atoll"} {
		in := bytes.NewReader(bytes.Repeat([]byte(filler), 2*most))
		size := in.Len()
		_, err := scan(in, most, func([]byte) bool { return false })
		if read := size - in.Len(); !errors.Is(err, ErrNoHello) || read < most || read > most+helloSize {
			t.Errorf("%q: read %d bytes (%v)", filler, read, err)
		}
	}
}

// FuzzHello: whatever comes before a hello, the hello is found, and nothing
// behind it is taken.
func FuzzHello(f *testing.F) {
	f.Add([]byte("atollLNKatollASK"), true)
	f.Add([]byte("atollL"), false)
	f.Add(frame(0, 0, 1, "atollLatollatollLNatollA"), true)
	f.Fuzz(func(t *testing.T, before []byte, open bool) {
		if len(before) > 1<<16 {
			return
		}
		hello := []byte(magicAsk + "12345678")
		if open {
			hello = []byte(magicOpen + "12345678")
		}
		in := bytes.NewReader(append(append(bytes.Clone(before), hello...), "behind"...))
		got, err := scan(in, maxSkipped, func(window []byte) bool { return bytes.Equal(window, hello) })
		rest, _ := io.ReadAll(in)
		at := bytes.Index(append(bytes.Clone(before), hello...), hello)
		if err != nil || !bytes.Equal(got, hello) || at == len(before) && string(rest) != "behind" {
			t.Errorf("found %q (%v), and behind it %q", got, err, rest)
		}
	})
}
