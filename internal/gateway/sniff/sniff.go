// Package sniff tells from the first bytes of a connection what it is about to
// be, and for which name.
//
// Terms: a hello is TLS's ClientHello, the one message that names a host
// before everything is encrypted; an opaque connection is one whose protocol
// the gateway doesn't read, such as SSH or SMTP.
//
// Everything here reads hostile bytes: whatever is ambiguous counts as what
// does most harm, and nothing needs more than MaxHead bytes.
package sniff

import (
	"bytes"
	"strings"
)

// MaxHead is how many bytes tell what a connection is.
const MaxHead = 32 << 10

// Kind is what a connection is about to be.
type Kind int

// The kinds of connection.
const (
	Undecided Kind = iota // more bytes are needed
	TLS                   // begins with a complete hello
	HTTP1                 // plain HTTP/1
	HTTP2                 // plain HTTP/2
	Opaque                // anything else
	Unsafe                // what could mean different things to different readers; let nothing of it through
)

func (k Kind) String() string {
	return [...]string{"undecided", "tls", "http/1.1", "h2c", "opaque", "unsafe"}[k]
}

const (
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	proxyHead = "\r\n\r\n\x00\r\nQUIT\n" // of the PROXY protocol, version 2
	maxLine   = 16 << 10                 // bytes of a request line
)

// Classify tells what a connection is whose first bytes are head. For TLS it
// also returns the hello.
func Classify(head []byte) (Kind, *Hello) {
	if len(head) == 0 {
		return Undecided, nil
	}
	if BeginsTLS(head) {
		return classifyTLS(head)
	}
	if isOldTLS(head) || begins(head, proxyHead) {
		return Unsafe, nil
	}
	if isBeginning(head, preface) || isBeginning(head, proxyHead) {
		return undecided(head), nil
	}
	if begins(head, preface) {
		return HTTP2, nil
	}
	return classifyLine(head), nil
}

func classifyTLS(head []byte) (Kind, *Hello) {
	hello, err := ParseHello(head)
	switch err {
	case nil:
		return TLS, hello
	case ErrIncomplete:
		return undecided(head), nil
	default:
		return Unsafe, nil
	}
}

// undecided asks for more bytes, as long as there may be more.
func undecided(head []byte) Kind {
	if len(head) >= MaxHead {
		return Unsafe
	}
	return Undecided
}

// BeginsTLS reports whether a server would read a TLS record here. One byte
// says so: no protocol of text begins with it.
func BeginsTLS(head []byte) bool { return len(head) > 0 && head[0] == recordHandshake }

// isOldTLS recognises the hello of SSL 2, which some servers still answer.
func isOldTLS(head []byte) bool {
	return len(head) >= 5 && head[0]&0x80 != 0 && head[2] == helloMessage && (head[3] == 3 || head[3] == 0 && head[4] == 2)
}

func begins(head []byte, with string) bool {
	return len(head) >= len(with) && string(head[:len(with)]) == with
}

// isBeginning reports whether head may still become text.
func isBeginning(head []byte, text string) bool {
	return len(head) < len(text) && strings.HasPrefix(text, string(head))
}

// blank is what lenient servers take for the space between a request line's
// words (RFC 9112, section 3).
const blank = " \t\v\f\r"

// classifyLine tells HTTP from other protocols by the first line. Servers skip
// empty lines before it, and some skip spaces.
func classifyLine(head []byte) Kind {
	line := bytes.TrimLeft(head, "\n"+blank)
	if len(line) == 0 {
		return undecided(head)
	}
	method := line
	if i := bytes.IndexAny(line, "\n"+blank); i >= 0 {
		method = line[:i]
	}
	if !isToken(method) {
		return Opaque
	}
	hasSpace := beginsSpace(line[len(method):])
	if string(method) == "PROXY" && hasSpace {
		return Unsafe
	}
	end := bytes.IndexByte(line, '\n')
	switch {
	case hasSpace && isMethod(string(method)):
		return HTTP1
	case end < 0 && len(line) > maxLine:
		return Unsafe
	case end < 0:
		return undecided(head)
	case isVersioned(line[:end]):
		return HTTP1
	}
	return Opaque
}

// beginsSpace reports whether a word is followed by space and not by the end
// of its line.
func beginsSpace(b []byte) bool {
	return len(b) > 0 && b[0] != '\n' && string(b) != "\r" && !bytes.HasPrefix(b, []byte("\r\n"))
}

// isVersioned reports whether a line ends like HTTP/1's request line.
func isVersioned(line []byte) bool {
	words := bytes.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(blank, r) })
	return len(words) > 1 && bytes.HasPrefix(bytes.ToUpper(words[len(words)-1]), []byte("HTTP/"))
}

// isMethod reports the common methods, which nothing but HTTP begins with.
// Other ones need the version at the end of their line.
func isMethod(m string) bool {
	switch strings.ToUpper(m) {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE":
		return true
	}
	return false
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return len(b) > 0
}
