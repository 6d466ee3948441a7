package secret

import (
	"strings"
	"sync"
)

// maxRedactors bounds how many redactors a Set keeps; a guest could otherwise
// have one made for each way in which its secrets' hosts overlap.
const maxRedactors = 64

// redactors are the finders of values, by the secrets that they find: one bit
// for each.
type redactors struct {
	mu  sync.Mutex
	all map[uint64]*finder
}

// redactor finds the values of some secrets, for their placeholders to take
// their place. It is nil when none can be recognised.
func (s *Set) redactor(secrets []*one) *finder {
	var key uint64
	for _, o := range secrets {
		key |= 1 << o.index
	}
	s.redactors.mu.Lock()
	defer s.redactors.mu.Unlock()
	f, ok := s.redactors.all[key]
	if ok {
		return f
	}
	f = newRedactor(secrets)
	if s.redactors.all == nil {
		s.redactors.all = map[uint64]*finder{}
	}
	if len(s.redactors.all) < maxRedactors {
		s.redactors.all[key] = f
	}
	return f
}

func newRedactor(secrets []*one) *finder {
	var needles []needle
	add := func(value, placeholder string) {
		if len(value) >= minRecognised {
			needles = append(needles, needle{[]byte(value), []byte(placeholder)})
		}
	}
	for _, o := range secrets {
		add(o.spec.Value, o.placeholder)
		if o.spec.Sign != nil {
			add(o.spec.Sign.SessionToken, o.session)
		}
	}
	if needles == nil {
		return nil
	}
	return newFinder(needles, percent, slash, entity)
}

// isInName reports whether a value is in the name of a header. Case counts for
// nothing there, and is not kept by everybody.
func (f *finder) isInName(name string) bool {
	if len(name) < f.shortest() {
		return false
	}
	name = strings.ToLower(name)
	for _, n := range f.needles {
		if len(n.text) <= len(name) && strings.Contains(name, strings.ToLower(string(n.text))) {
			return true
		}
	}
	_, changed, _ := replaceAll(f.redact(false), name) // has no error
	return changed
}

// redact makes a stream in which placeholders take the values' place. With
// keep set, each has the length of what it takes the place of.
func (f *finder) redact(keep bool) *stream {
	return &stream{find: f, put: func(dst []byte, m match, text []byte) ([]byte, error) {
		if m.form < 0 {
			with := f.needles[m.needle].with
			if keep {
				with = masked(with, len(text))
			}
			return append(dst, with...), nil
		}
		p := &f.forms[m.form]
		with := &p.with
		if keep {
			with = &p.mask
		}
		if m.left {
			dst = append(dst, p.left.rewrite(text[0], with.left))
		}
		dst = append(dst, with.text...)
		if m.right {
			dst = append(dst, p.right.rewrite(text[len(text)-1], with.right))
		}
		return dst, nil
	}}
}
