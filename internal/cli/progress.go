package cli

import (
	"fmt"
	"io"
	"path"
	"sync"
	"time"
)

// progress counts what a copy did and, on a terminal, shows it. It is safe
// for concurrent use.
type progress struct {
	err  io.Writer // may be nil
	draw bool

	mu      sync.Mutex // guards the rest
	sum     copyTotals
	current string
	drawn   time.Time
	started time.Time
}

// copyTotals is what cp prints with --json.
type copyTotals struct {
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Skipped     int64 `json:"skipped"`
	Bytes       int64 `json:"bytes"`
}

// redrawEvery keeps a slow terminal from slowing the copy.
const redrawEvery = 200 * time.Millisecond

func (p *progress) totals() copyTotals {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sum
}

func (p *progress) begin(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = name
}

func (p *progress) file()      { p.add(func(t *copyTotals) { t.Files++ }) }
func (p *progress) directory() { p.add(func(t *copyTotals) { t.Directories++ }) }
func (p *progress) link()      { p.add(func(t *copyTotals) { t.Symlinks++ }) }

func (p *progress) skip(name string) {
	p.add(func(t *copyTotals) { t.Skipped++ })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		fmt.Fprintf(p.err, "atoll: %s is neither file, directory nor link: skipped\n", printable(name))
	}
}

func (p *progress) add(change func(*copyTotals)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.sum)
	p.redraw()
}

// redraw writes the line anew, not too often; p.mu is held.
func (p *progress) redraw() {
	now := time.Now()
	if p.started.IsZero() {
		p.started = now
	}
	if !p.draw || now.Sub(p.drawn) < redrawEvery {
		return
	}
	p.drawn = now
	p.line()
}

func (p *progress) line() {
	seconds := max(time.Since(p.started).Seconds(), 0.001)
	fmt.Fprintf(p.err, "\r\x1b[K%d files, %s, %s/s  %.40q",
		p.sum.Files, size(float64(p.sum.Bytes)), size(float64(p.sum.Bytes)/seconds), path.Base(p.current))
}

// finish leaves the last state on the terminal.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draw && !p.drawn.IsZero() {
		p.line()
		fmt.Fprintln(p.err)
	}
}

func size(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 {
			return fmt.Sprintf("%.4g %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.4g TiB", n)
}

// count returns a reader that counts what passes.
func (p *progress) count(r io.Reader) io.Reader { return countingReader{r, p} }

type countingReader struct {
	r io.Reader
	p *progress
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.add(func(t *copyTotals) { t.Bytes += int64(n) })
	return n, err
}
