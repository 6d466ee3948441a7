package deno

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A watcher counts the starts of one watched program. It lives in a private
// directory that holds a FIFO and the preload module that writes to it.
//
// The message that Deno prints would be the other sign of a restart, but the
// program can print the same, and its stderr may be closed.
type watcher struct {
	dir  string
	fifo *os.File
	once sync.Once
}

// preloadSource must never break the program that it is loaded before.
const preloadSource = `try {
  const fifo = Deno.openSync(%s, { write: true });
  fifo.writeSync(new Uint8Array(1));
  fifo.close();
} catch { /* restarts go unnoticed */ }
`

// newWatcher prepares a watcher for a process of the given user.
func newWatcher(uid, gid int) (w *watcher, err error) {
	dir, err := os.MkdirTemp("", "deno-watch-")
	if err != nil {
		return nil, fmt.Errorf("make watcher: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	w = &watcher{dir: dir}
	if err := unix.Mkfifo(w.path("starts"), 0o600); err != nil {
		return nil, fmt.Errorf("make watcher's fifo: %w", err)
	}
	source := fmt.Sprintf(preloadSource, literal(w.path("starts")))
	if err := os.WriteFile(w.preload(), []byte(source), 0o600); err != nil {
		return nil, fmt.Errorf("write watcher's preload module: %w", err)
	}
	for _, name := range []string{"", "starts", "preload.mjs"} {
		if err := os.Chown(w.path(name), uid, gid); err != nil {
			return nil, fmt.Errorf("hand watcher to its user: %w", err)
		}
	}
	// Both ways: without a writer of our own, every start would end the file.
	w.fifo, err = os.OpenFile(w.path("starts"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open watcher's fifo: %w", err)
	}
	return w, nil
}

func (w *watcher) path(name string) string { return filepath.Join(w.dir, name) }

// preload is the module that the program must load first.
func (w *watcher) preload() string { return w.path("preload.mjs") }

// follow calls restarted for each start but the first, until close. It takes
// the starts one by one: whoever floods the FIFO waits for its own
// notifications.
func (w *watcher) follow(restarted func()) {
	first := true
	var b [1]byte
	for {
		if _, err := w.fifo.Read(b[:]); err != nil {
			return
		}
		if !first {
			restarted()
		}
		first = false
	}
}

// close ends follow and removes the directory. It is idempotent.
func (w *watcher) close() {
	w.once.Do(func() {
		w.fifo.Close()
		os.RemoveAll(w.dir)
	})
}
