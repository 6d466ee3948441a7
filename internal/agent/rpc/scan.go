package rpc

import (
	"encoding/binary"
	"math/bits"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds how deep arrays and objects nest, and with it the stack.
const maxDepth = 512

// scanner walks over JSON text and checks its syntax without building
// anything. It exists because a message with a file in it is a hundred
// megabytes of one string, which a general decoder reads several times.
type scanner struct {
	b []byte
	i int
}

// member is one name and value of an object. The value is raw JSON inside
// the scanned text.
type member struct {
	name  []byte // decoded
	value []byte
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the next byte that isn't white space, or 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

// raw walks over any value and returns its text.
func (s *scanner) raw(depth int) ([]byte, bool) {
	s.space()
	start := s.i
	ok := s.value(depth)
	return s.b[start:s.i], ok
}

// object walks over an object. With visit, that function gets each member's
// name and walks over its value itself.
func (s *scanner) object(depth int, visit func(name []byte) bool) bool {
	if depth > maxDepth || s.peek() != '{' {
		return false
	}
	s.i++
	if s.peek() == '}' {
		s.i++
		return true
	}
	for {
		if s.peek() != '"' {
			return false
		}
		name, ok := s.name()
		if !ok || s.peek() != ':' {
			return false
		}
		s.i++
		if visit == nil {
			ok = s.value(depth + 1)
		} else {
			ok = visit(name)
		}
		if !ok {
			return false
		}
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			return true
		default:
			return false
		}
	}
}

func (s *scanner) array(depth int) bool {
	if depth > maxDepth {
		return false
	}
	s.i++
	if s.peek() == ']' {
		s.i++
		return true
	}
	for {
		if !s.value(depth + 1) {
			return false
		}
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			return true
		default:
			return false
		}
	}
}

// value walks over any value.
func (s *scanner) value(depth int) bool {
	switch c := s.peek(); c {
	case '{':
		return s.object(depth, nil)
	case '[':
		return s.array(depth)
	case '"':
		_, ok := s.text()
		return ok
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return false
	}
	s.i += len(word)
	return true
}

func (s *scanner) number() bool {
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
	}
	if s.i < len(s.b) && s.b[s.i] == '0' {
		s.i++
	} else if !s.digits() {
		return false
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !s.digits() {
			return false
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > start
}

// name reads an object's member name and decodes it.
func (s *scanner) name() ([]byte, bool) {
	start := s.i
	plain, ok := s.text()
	if !ok {
		return nil, false
	}
	if plain {
		return s.b[start+1 : s.i-1], true
	}
	name, err := jsontext.AppendUnquote(nil, s.b[start:s.i])
	return name, err == nil
}

// text walks over a string and says whether it is plain: without escapes.
func (s *scanner) text() (plain, ok bool) {
	s.i++
	plain = true
	for {
		s.i += untilSpecial(s.b[s.i:])
		if s.i >= len(s.b) {
			return false, false
		}
		switch s.b[s.i] {
		case '"':
			s.i++
			return plain, true
		case '\\':
			plain = false
			if !s.escape() {
				return false, false
			}
		default: // a control character
			return false, false
		}
	}
}

func (s *scanner) escape() bool {
	if len(s.b)-s.i < 2 {
		return false
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		if len(s.b)-s.i < 6 {
			return false
		}
		for _, c := range s.b[s.i+2 : s.i+6] {
			if !isHex(c) {
				return false
			}
		}
		s.i += 6
		return true
	}
	return false
}

func isHex(c byte) bool {
	return c-'0' <= 9 || (c|0x20)-'a' <= 5
}

// untilSpecial returns how many bytes come before the first quote, backslash
// or control character, looking at eight bytes at a time.
func untilSpecial(b []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote := x ^ ones*'"'
		slash := x ^ ones*'\\'
		// Each term has the high bit set in the lowest byte that matches;
		// borrows can only set wrong bits above it.
		hit := ((quote-ones)&^quote | (slash-ones)&^slash | (x-ones*0x20)&^x) & highs
		if hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < 0x20 {
			return i
		}
	}
	return len(b)
}
