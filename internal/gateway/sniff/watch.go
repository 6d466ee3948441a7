package sniff

import "bytes"

// maxCandidates bounds how many hellos can be under way at the same time.
const maxCandidates = 32

// Watcher looks for hellos in what the guest sends on an opaque connection:
// protocols such as SMTP and Postgres change to TLS after some words in clear.
//
// Each place that may be a hello's beginning is followed until it turns out
// to be one or not. A hello hidden in what pretends to be another one is
// found, too.
type Watcher struct {
	window []byte // from the oldest candidate on, or the last bytes
	starts []int  // candidates, as places in window
	looked int    // bytes of window in which candidates have been looked for
}

// The beginning of a hello: record type, major version, minor version, two
// bytes of length, message type.
const helloHead = 6

// Next takes what comes next and returns the hellos that it completes. With
// ok false there is too much to follow: end the connection.
func (w *Watcher) Next(b []byte) (hellos []*Hello, ok bool) {
	w.window = append(w.window, b...)
	if !w.find() {
		return nil, false
	}
	alive := w.starts[:0]
	for _, at := range w.starts {
		hello, err := ParseHello(w.window[at:])
		switch {
		case err == nil:
			hellos = append(hellos, hello)
		case err == ErrIncomplete && len(w.window)-at > MaxHead:
			return nil, false
		case err == ErrIncomplete:
			alive = append(alive, at)
		}
	}
	w.starts = alive
	w.forget()
	return hellos, true
}

// find notes the candidates that have become visible.
func (w *Watcher) find() bool {
	last := len(w.window) - helloHead
	for w.looked <= last {
		i := bytes.IndexByte(w.window[w.looked:last+1], recordHandshake)
		if i < 0 {
			w.looked = last + 1
			break
		}
		at := w.looked + i
		w.looked = at + 1
		if !plausible(w.window[at:]) {
			continue
		}
		if len(w.starts) == maxCandidates {
			return false
		}
		w.starts = append(w.starts, at)
	}
	return true
}

func plausible(b []byte) bool {
	size := int(b[3])<<8 | int(b[4])
	return b[1] == 3 && b[2] <= 4 && size > 0 && size <= maxRecord && b[5] == helloMessage
}

// forget drops what no candidate needs.
func (w *Watcher) forget() {
	keep := w.looked
	if len(w.starts) > 0 {
		keep = w.starts[0]
	}
	w.window = append(w.window[:0], w.window[keep:]...)
	w.looked -= keep
	for i := range w.starts {
		w.starts[i] -= keep
	}
	if len(w.window) == 0 && cap(w.window) > MaxHead {
		w.window = nil
	}
}
