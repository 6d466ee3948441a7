package secret

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// escape is a way to write characters differently. Any of a text's characters
// may be escaped, or none.
type escape struct {
	sign   byte // that every escape begins with
	plus   bool // whether "+" is a space
	widest int  // bytes of escape for one byte of text, at most
	// begins reports whether an escape whose second byte is next may stand for
	// a character that begins with c.
	begins func(next, c byte) bool
	// decode reads the escape that b begins with. Its size is 0 when there is
	// none, and negative when b ends before that is known.
	decode func(b []byte) (c char, size int)
}

var (
	percent = &escape{sign: '%', plus: true, widest: 3, begins: beginsPercent, decode: decodePercent}
	slash   = &escape{sign: '\\', widest: 6, begins: beginsSlash, decode: decodeSlash}
	entity  = &escape{sign: '&', widest: maxEntity, begins: beginsEntity, decode: decodeEntity}
)

func beginsPercent(next, c byte) bool {
	v, ok := hexValue([]byte{next})
	return ok && byte(v) == c>>4
}

func beginsSlash(next, c byte) bool {
	if next == 'u' || next == 'x' {
		return true
	}
	short, size := decodeSlash([]byte{'\\', next})
	return size > 0 && short.b[0] == c
}

func beginsEntity(next, c byte) bool {
	for name, stands := range entities {
		if name[0] == next && stands == c {
			return true
		}
	}
	return next == '#'
}

// char is a character, or with percent escapes a byte of one.
type char struct {
	b [utf8.UTFMax]byte
	n int
}

func (c *char) text() []byte { return c.b[:c.n] }

func single(b byte) char { return char{[utf8.UTFMax]byte{b}, 1} }

func ofRune(r rune) (c char, ok bool) {
	if !utf8.ValidRune(r) {
		return c, false
	}
	c.n = utf8.EncodeRune(c.b[:], r)
	return c, true
}

// hexValue reads hexadecimal digits.
func hexValue(b []byte) (v rune, ok bool) {
	for _, d := range b {
		switch {
		case '0' <= d && d <= '9':
			d -= '0'
		case 'a' <= d|0x20 && d|0x20 <= 'f':
			d = d | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

// hexAt reads n digits at b[at:]. The size is that of an escape which ends
// with them.
func hexAt(b []byte, at, n int) (v rune, size int) {
	end := min(at+n, len(b))
	v, ok := hexValue(b[at:end])
	switch {
	case !ok:
		return 0, 0
	case end < at+n:
		return 0, -1
	}
	return v, end
}

func decodePercent(b []byte) (char, int) {
	v, size := hexAt(b, 1, 2)
	return single(byte(v)), size
}

// decodeSlash reads the escapes of JSON, and \x of its relatives.
func decodeSlash(b []byte) (char, int) {
	if len(b) < 2 {
		return char{}, -1
	}
	switch c := b[1]; c {
	case '"', '\\', '/', '\'':
		return single(c), 2
	case 'b', 'f', 'n', 'r', 't':
		return single("\b\f\n\r\t"[bytes.IndexByte([]byte("bfnrt"), c)]), 2
	case 'x':
		v, size := hexAt(b, 2, 2)
		return single(byte(v)), size
	case 'u':
		return decodeUnicode(b)
	}
	return char{}, 0
}

// decodeUnicode reads \uXXXX, or two of them that are one character.
func decodeUnicode(b []byte) (char, int) {
	v, size := hexAt(b, 2, 4)
	if size <= 0 {
		return char{}, size
	}
	if utf16.IsSurrogate(v) {
		second := b[6:]
		if !bytes.HasPrefix(second, []byte(`\u`)) {
			if bytes.HasPrefix([]byte(`\u`), second) {
				return char{}, -1
			}
			return char{}, 0
		}
		low, n := hexAt(second, 2, 4)
		if n <= 0 {
			return char{}, n
		}
		v, size = utf16.DecodeRune(v, low), 12
		if v == utf8.RuneError {
			return char{}, 0
		}
	}
	c, ok := ofRune(v)
	if !ok {
		return char{}, 0
	}
	return c, size
}

// maxEntity is how long an entity that is read may be, such as
// "&DiacriticalGrave;".
const maxEntity = 20

// decodeEntity reads HTML's entities of ASCII characters and all numeric ones.
func decodeEntity(b []byte) (char, int) {
	end := 1
	for end < len(b) && end < maxEntity && (isAlnum(b[end]) || end == 1 && b[end] == '#') {
		end++
	}
	switch {
	case end == len(b) && end < maxEntity:
		return char{}, -1
	case end == len(b) || b[end] != ';':
		return char{}, 0
	}
	c, ok := entityChar(b[1:end])
	if !ok {
		return char{}, 0
	}
	return c, end + 1
}

func isAlnum(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' }

func entityChar(name []byte) (char, bool) {
	if len(name) < 2 || name[0] != '#' {
		c, ok := entities[string(name)]
		return single(c), ok
	}
	if name[1]|0x20 == 'x' {
		v, ok := hexValue(name[2:])
		if !ok || len(name) == 2 || len(name) > 12 {
			return char{}, false
		}
		return ofRune(v)
	}
	v, err := strconv.ParseUint(string(name[1:]), 10, 31)
	if err != nil {
		return char{}, false
	}
	return ofRune(rune(v))
}

// entities are all names of HTML that stand for one ASCII character.
var entities = map[string]byte{
	"Tab": '\t', "NewLine": '\n', "excl": '!', "quot": '"', "QUOT": '"', "num": '#', "dollar": '$', "percnt": '%',
	"amp": '&', "AMP": '&', "apos": '\'', "lpar": '(', "rpar": ')', "ast": '*', "midast": '*', "plus": '+', "comma": ',',
	"period": '.', "sol": '/', "colon": ':', "semi": ';', "lt": '<', "LT": '<', "equals": '=', "gt": '>', "GT": '>',
	"quest": '?', "commat": '@', "lsqb": '[', "lbrack": '[', "bsol": '\\', "rsqb": ']', "rbrack": ']', "Hat": '^',
	"lowbar": '_', "UnderBar": '_', "grave": '`', "DiacriticalGrave": '`', "lcub": '{', "lbrace": '{', "verbar": '|',
	"vert": '|', "VerticalLine": '|', "rcub": '}', "rbrace": '}',
}

// follow reads the rest of a needle, some of its characters escaped, from the
// beginning of b. It returns the bytes that took. With partial set b ends
// before the rest does; with final set, b is all that there will be.
func (e *escape) follow(b, rest []byte, final bool) (n int, ok, partial bool) {
	for len(rest) > 0 {
		if n == len(b) {
			return 0, false, !final
		}
		if b[n] == e.sign {
			c, size := e.decode(b[n:])
			if size < 0 && !final {
				return 0, false, true
			}
			if size > 0 && bytes.HasPrefix(rest, c.text()) {
				n, rest = n+size, rest[c.n:]
				continue
			}
		}
		if !e.stands(b[n], rest[0]) {
			return 0, false, false
		}
		n, rest = n+1, rest[1:]
	}
	return n, true, false
}

// stands reports whether a byte that isn't an escape stands for c.
func (e *escape) stands(b, c byte) bool { return b == c || e.plus && b == '+' && c == ' ' }

// precedes reports whether b ends with text, unescaped.
func (e *escape) precedes(b, text []byte) bool {
	if len(b) < len(text) {
		return false
	}
	b = b[len(b)-len(text):]
	for i := len(text) - 1; i >= 0; i-- {
		if !e.stands(b[i], text[i]) {
			return false
		}
	}
	return true
}
