package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// form is one way in which a needle may be written, as literal bytes.
type form struct {
	needle int
	text   []byte
	// Of base64, the bits of the first and of the last character that belong
	// to the needle; the others belong to its neighbours.
	left, right edge
	with, mask  written // what takes its place, of free or of the same length
}

// written is a text in some form.
type written struct {
	text        []byte
	left, right byte // bits of the edges
}

// edge is a character of base64 of which the needle determines only some bits.
type edge struct {
	mask byte // 0: there is none
	bits byte
}

func (e edge) fits(c byte) bool {
	v, ok := sextet(c)
	return e.mask != 0 && ok && v&e.mask == e.bits
}

// rewrite gives the character c the bits of another text.
func (e edge) rewrite(c, bits byte) byte {
	v, _ := sextet(c)
	alphabet := standard
	if c == '-' || c == '_' {
		alphabet = urlSafe
	}
	return alphabet[v&^e.mask|bits]
}

const (
	common   = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	standard = common + "+/"
	urlSafe  = common + "-_"
)

var sextets = func() (t [256]int8) {
	for i := range t {
		t[i] = int8(strings.IndexByte(standard, byte(i)))
		if j := strings.IndexByte(urlSafe, byte(i)); j >= 0 {
			t[i] = int8(j)
		}
	}
	return t
}()

// sextet is the value of a character in either alphabet.
func sextet(c byte) (v byte, ok bool) {
	i := sextets[c]
	return byte(i), i >= 0
}

// needle is a text to find, and what takes its place. Whatever is found of a
// needle without other forms is handed over as it is.
type needle struct {
	text []byte
	with []byte // nil: only text itself is found
}

// forms are all ways to find a needle without looking at escapes.
func (n needle) forms(index int) []form {
	if n.with == nil {
		return []form{{needle: index, text: n.text}}
	}
	mask := masked(n.with, len(n.text))
	plain := func(text []byte, write func([]byte) []byte) form {
		return form{needle: index, text: text, with: written{text: write(n.with)}, mask: written{text: write(mask)}}
	}
	same := func(b []byte) []byte { return b }
	all := []form{plain(n.text, same), plain(toHex(n.text), toHex), plain(toUpperHex(n.text), toUpperHex)}
	if bytes.IndexByte(n.text, ' ') >= 0 {
		all = append(all, plain(bytes.ReplaceAll(n.text, []byte{' '}, []byte{'+'}), same))
	}
	for before := range 3 {
		std := base64Form(index, n, mask, before, base64.RawStdEncoding)
		url := base64Form(index, n, mask, before, base64.RawURLEncoding)
		all = append(all, std)
		if !bytes.Equal(std.text, url.text) {
			all = append(all, url)
		}
	}
	return all
}

func toHex(b []byte) []byte      { return hex.AppendEncode(nil, b) }
func toUpperHex(b []byte) []byte { return bytes.ToUpper(toHex(b)) }

// masked cuts or fills text to a size.
func masked(text []byte, size int) []byte {
	if size <= len(text) {
		return text[:size:size]
	}
	return append(bytes.Clone(text), bytes.Repeat([]byte{'*'}, size-len(text))...)
}

// base64Form is the needle in base64, behind so many bytes of a group of three.
func base64Form(index int, n needle, mask []byte, before int, enc *base64.Encoding) form {
	text, left, right := core(n.text, before, enc)
	f := form{needle: index, text: text, left: left, right: right}
	f.with, f.mask = write64(n.with, before, enc), write64(mask, before, enc)
	return f
}

func write64(text []byte, before int, enc *base64.Encoding) written {
	inner, left, right := core(text, before, enc)
	return written{inner, left.bits, right.bits}
}

// core encodes text behind so many unknown bytes: the characters that it alone
// determines, and those that it shares with its neighbours.
func core(text []byte, before int, enc *base64.Encoding) (inner []byte, left, right edge) {
	all := enc.AppendEncode(nil, append(make([]byte, before), text...))
	bits := 8 * (before + len(text))
	end := bits / 6
	if before > 0 {
		left.mask = 1<<(6-8*before%6) - 1
		v, _ := sextet(all[before])
		left.bits = v & left.mask
	}
	if spare := bits % 6; spare > 0 {
		right.mask = 0x3f &^ (1<<(6-spare) - 1)
		v, _ := sextet(all[end])
		right.bits = v & right.mask
	}
	return all[(8*before+5)/6 : end], left, right
}
