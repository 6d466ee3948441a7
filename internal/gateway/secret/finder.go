package secret

import (
	"bytes"
	"encoding/binary"
)

// finder finds needles in text, in all their forms. It is immutable.
//
// Literal forms are found with Wu and Manber's search: a window as long as the
// shortest form moves over the text, and a table says by its last three bytes
// how far, so that most of the text is never looked at. Escaped forms have at
// least one escape: from an escape whose character occurs in a needle, the
// text is compared in both directions.
type finder struct {
	needles []needle
	forms   []form
	escapes []*escape

	window int              // bytes
	shift  []uint8          // by hash: how far the window may move
	drop   uint             // bits of a hash that don't count
	ends   map[uint32][]int // forms by the hash of their window's last block

	occurs  [256]bool           // bytes that occur in a needle
	leads   map[byte]*[256]bool // by escape's sign: second bytes of escapes that may stand for one of them
	longest int                 // bytes of a needle
}

const (
	block     = 3 // bytes that are hashed
	maxWindow = 255
	// minRecognised is how many bytes a value must have to be recognised in
	// what a server sends. Shorter ones occur by chance.
	minRecognised = 8
)

// newFinder makes a finder of needles of at least minRecognised bytes. Forms
// with escapes are found with those escapes.
func newFinder(needles []needle, escapes ...*escape) *finder {
	f := &finder{needles: needles, escapes: escapes, window: maxWindow, ends: map[uint32][]int{}}
	for i, n := range needles {
		f.forms = append(f.forms, n.forms(i)...)
		f.longest = max(f.longest, len(n.text))
		for _, c := range n.text {
			f.occurs[c] = true
		}
	}
	for _, p := range f.forms {
		f.window = min(f.window, len(p.text))
	}
	f.fill()
	f.lead()
	return f
}

// lead finds out which escapes are worth to be decoded.
func (f *finder) lead() {
	f.leads = map[byte]*[256]bool{}
	for _, e := range f.escapes {
		leads := &[256]bool{}
		for c, occurs := range f.occurs {
			for next := 0; occurs && next < 256; next++ {
				leads[next] = leads[next] || e.begins(byte(next), byte(c))
			}
		}
		f.leads[e.sign] = leads
	}
}

// within is the same finder, for text with some of its escapes only.
func (f *finder) within(escapes ...*escape) *finder {
	other := *f
	other.escapes = escapes
	return &other
}

// shortest is how many bytes a text must have to hold a needle: no form is
// shorter than the needle itself.
func (f *finder) shortest() int { return f.window }

// fill makes the table, so large that few of its entries are taken.
func (f *finder) fill() {
	size := 12
	for ; size < 17 && len(f.forms)*f.window > 1<<(size-4); size++ {
	}
	f.drop = uint(32 - size)
	farthest := uint8(f.window - block + 1)
	f.shift = bytes.Repeat([]byte{farthest}, 1<<size)
	for i, p := range f.forms {
		for end := block; end <= f.window; end++ {
			h := f.hash(uint32(p.text[end-3]) | uint32(p.text[end-2])<<8 | uint32(p.text[end-1])<<16)
			f.shift[h] = min(f.shift[h], uint8(f.window-end))
			if end == f.window {
				f.ends[h] = append(f.ends[h], i)
			}
		}
	}
}

func (f *finder) hash(block uint32) uint32 { return block * 0x9E3779B1 >> f.drop }

// match is an occurrence of a needle.
type match struct {
	start, end  int
	needle      int
	form        int  // of the finder; negative: written with escapes
	left, right bool // whether it includes the edge
}

// better decides between two matches: the first one, then the longest.
func (m match) better(other match) bool {
	return m.start < other.start || m.start == other.start && m.end > other.end
}

// literal finds the first match of a literal form in b[from:].
func (f *finder) literal(b []byte, from int) (match, bool) {
	shift, drop := f.shift, f.drop&31
	for end := from + f.window; end <= len(b); {
		h := binary.LittleEndian.Uint32(b[end-4:]) >> 8 * 0x9E3779B1 >> drop
		if d := shift[h]; d > 0 {
			end += int(d)
			continue
		}
		if m, ok := f.at(b, from, end-f.window, h); ok {
			return m, true
		}
		end++
	}
	return match{}, false
}

// at finds the longest form that begins at a place.
func (f *finder) at(b []byte, from, start int, h uint32) (best match, found bool) {
	for _, i := range f.ends[h] {
		p := &f.forms[i]
		if !bytes.HasPrefix(b[start:], p.text) {
			continue
		}
		m := match{start: start, end: start + len(p.text), needle: p.needle, form: i}
		if m.left = start > from && p.left.fits(b[start-1]); m.left {
			m.start--
		}
		if m.right = m.end < len(b) && p.right.fits(b[m.end]); m.right {
			m.end++
		}
		if !found || m.better(best) {
			best, found = m, true
		}
	}
	return best, found
}

// escaped finds the first match with escapes in b[from:] that begins before
// limit.
func (f *finder) escaped(e *escape, b []byte, from, limit int, final bool) (match, bool) {
	limit = min(len(b)-1, limit+f.longest)
	leads := f.leads[e.sign]
	for at := from; at < limit; at++ {
		i := bytes.IndexByte(b[at:limit], e.sign)
		if i < 0 {
			break
		}
		if at += i; !leads[b[at+1]] {
			continue
		}
		c, size := e.decode(b[at:])
		if size <= 0 || !f.occurs[c.b[0]] {
			continue
		}
		if m, ok, _ := f.around(e, b, from, at, c, final); ok {
			return m, true
		}
	}
	return match{}, false
}

// around looks for needles whose first escape is at a place, and for the
// beginning of what may become one.
func (f *finder) around(e *escape, b []byte, from, at int, c char, final bool) (best match, found bool, partial int) {
	partial = len(b)
	for i, n := range f.needles {
		for k := 0; k <= at-from; k++ {
			next := bytes.Index(n.text[k:], c.text())
			if next < 0 {
				break
			}
			k += next
			if !e.precedes(b[from:at], n.text[:k]) {
				continue
			}
			size, ok, more := e.follow(b[at:], n.text[k:], final)
			if more {
				partial = min(partial, at-k)
			}
			if m := (match{start: at - k, end: at + size, needle: i, form: -1}); ok && (!found || m.better(best)) {
				best, found = m, true
			}
		}
	}
	return best, found, partial
}

// unsettled is where in b[from:] something may begin that b doesn't hold to
// its end; len(b) for nowhere.
func (f *finder) unsettled(b []byte, from int) int {
	at := len(b)
	for i := range f.forms {
		at = min(at, f.forms[i].begun(b, from))
	}
	for _, e := range f.escapes {
		at = min(at, f.begun(e, b, from))
	}
	return at
}

// begun is where b ends with the beginning of the form.
func (p *form) begun(b []byte, from int) int {
	missing := 1 // bytes of the form that b lacks, at least
	if p.right.mask != 0 {
		missing = 0
	}
	for at := max(from, len(b)-len(p.text)+missing); at < len(b); at++ {
		i := bytes.IndexByte(b[at:], p.text[0])
		if i < 0 {
			break
		}
		at += i
		if bytes.HasPrefix(p.text, b[at:]) {
			return p.withEdge(b, from, at)
		}
	}
	return p.withEdge(b, from, len(b))
}

func (p *form) withEdge(b []byte, from, at int) int {
	if at > from && p.left.fits(b[at-1]) {
		return at - 1
	}
	return at
}

// begun is where b ends with the beginning of a needle with escapes.
func (f *finder) begun(e *escape, b []byte, from int) int {
	first := len(b)
	for at := max(from, len(b)-f.longest*e.widest); at < len(b); at++ {
		i := bytes.IndexByte(b[at:], e.sign)
		if i < 0 {
			break
		}
		at += i
		c, size := e.decode(b[at:])
		switch {
		case size < 0:
			first = min(first, f.beforeEscape(e, b, from, at))
		case size > 0 && f.occurs[c.b[0]]:
			_, _, partial := f.around(e, b, from, at, c, false)
			first = min(first, partial)
		}
	}
	return first
}

// beforeEscape is where a needle may begin whose first escape is cut off.
func (f *finder) beforeEscape(e *escape, b []byte, from, at int) int {
	for first := max(from, at-f.longest+1); first < at; first++ {
		for _, n := range f.needles {
			if k := at - first; k < len(n.text) && e.precedes(b[first:at], n.text[:k]) {
				return first
			}
		}
	}
	return at
}
