//go:build e2e

package harness

import (
	"fmt"
	"net/http"
	"sync"
)

// feeds sends server-sent events, the next one when the last one was heard of:
// if something on the way holds them back, no more come.
type feeds struct {
	mu    sync.Mutex // guards heard
	heard map[string]chan struct{}
}

// of is the feed of a name.
func (f *feeds) of(name string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heard == nil {
		f.heard = map[string]chan struct{}{}
	}
	if f.heard[name] == nil {
		f.heard[name] = make(chan struct{})
	}
	return f.heard[name]
}

// events sends the value of ValueHeader, three times.
func (f *feeds) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	heard := f.of(r.FormValue("of"))
	for range 3 {
		fmt.Fprintf(w, "data: %s\n\n", r.Header.Get(ValueHeader))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-heard:
		case <-r.Context().Done():
			return
		}
	}
}

func (f *feeds) hear(w http.ResponseWriter, r *http.Request) {
	select {
	case f.of(r.FormValue("of")) <- struct{}{}:
		fmt.Fprint(w, "ok\n")
	case <-r.Context().Done():
	}
}
