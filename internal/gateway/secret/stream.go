package secret

// stream is a Rewriter that puts something else in the place of needles.
type stream struct {
	find *finder
	// put appends what takes the place of a match, whose bytes are text.
	put  func(dst []byte, m match, text []byte) ([]byte, error)
	held []byte // may be the beginning of a needle
}

// Rewrite implements Rewriter. Any way to cut a stream into pieces has the
// same result: a match counts only when nothing that may begin before it, or
// where it does, is still open.
func (s *stream) Rewrite(dst, piece []byte, last bool) ([]byte, error) {
	b := piece
	if len(s.held) > 0 {
		s.held = append(s.held, piece...)
		b = s.held
	}
	scan := scan{find: s.find, b: b, final: last}
	for {
		m, settled, ok := scan.next()
		if !ok {
			dst = append(dst, b[scan.at:settled]...)
			s.held = append(s.held[:0], b[settled:]...)
			return dst, nil
		}
		dst = append(dst, b[scan.at:m.start]...)
		var err error
		if dst, err = s.put(dst, m, b[m.start:m.end]); err != nil {
			return nil, err
		}
		scan.at = m.end
	}
}

// scan goes over one piece from match to match.
type scan struct {
	find  *finder
	b     []byte
	at    int // everything before is done
	final bool

	literal seen
	escaped [3]seen
	open    int // where something may begin that b doesn't end
	looked  bool
}

// seen is the next match of a kind, so that it is looked for only once.
type seen struct {
	match
	ok, done bool
}

// current reports whether what was seen still holds from a place on.
func (s *seen) current(at int) bool { return s.done && (!s.ok || s.start >= at) }

// next finds the first match. Without one, everything before settled may pass.
func (s *scan) next() (m match, settled int, ok bool) {
	if len(s.b)-s.at == 0 {
		return m, len(s.b), false
	}
	m, ok = s.first()
	if open := s.unsettled(); !ok || open <= m.start {
		return m, open, false
	}
	return m, 0, true
}

// first is the best of all kinds of match.
func (s *scan) first() (best match, found bool) {
	if !s.literal.current(s.at) {
		m, ok := s.find.literal(s.b, s.at)
		s.literal = seen{m, ok, true}
	}
	best, found = s.literal.match, s.literal.ok
	for i, e := range s.find.escapes {
		limit := len(s.b)
		if found {
			limit = best.start + 1
		}
		if seen := s.nextEscaped(i, e, limit); seen.ok && (!found || seen.better(best)) {
			best, found = seen.match, true
		}
	}
	return best, found
}

// nextEscaped is the next match with escapes, if it begins before limit.
func (s *scan) nextEscaped(i int, e *escape, limit int) seen {
	if !s.escaped[i].current(s.at) {
		m, ok := s.find.escaped(e, s.b, s.at, limit, s.final)
		s.escaped[i] = seen{m, ok, ok || limit == len(s.b)}
		return seen{m, ok, true}
	}
	return s.escaped[i]
}

func (s *scan) unsettled() int {
	if s.final {
		return len(s.b)
	}
	if !s.looked || s.open < s.at {
		s.open, s.looked = s.find.unsettled(s.b, s.at), true
	}
	return s.open
}

// replaceAll rewrites a text that is there as a whole.
func replaceAll(s *stream, text string) (out string, changed bool, err error) {
	if len(text) < s.find.shortest() {
		return text, false, nil
	}
	put := s.put
	b, err := (&stream{find: s.find, put: func(dst []byte, m match, text []byte) ([]byte, error) {
		changed = true
		return put(dst, m, text)
	}}).Rewrite(nil, []byte(text), true)
	if err != nil || !changed {
		return text, false, err
	}
	return string(b), true, nil
}
