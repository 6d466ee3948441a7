package httpapi

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

// maxLabelQuery bounds the text of a label filter, in bytes.
const maxLabelQuery = 8 << 10

// readLabels reads a label filter: labels[key]=value from the JavaScript SDK,
// or labels={'key': 'value'} from the Python SDK, which sends the dictionary
// as Python prints it.
func readLabels(q url.Values) (map[string]string, error) {
	labels := map[string]string{}
	for name, values := range q {
		key, ok := strings.CutPrefix(name, "labels[")
		if !ok || !strings.HasSuffix(key, "]") || len(values) == 0 {
			continue
		}
		labels[strings.TrimSuffix(key, "]")] = values[0]
	}
	if text := q.Get("labels"); text != "" {
		if len(text) > maxLabelQuery || !parseDict(text, labels) {
			return nil, errs.New(errs.Invalid, "INVALID_FILTER", "the label filter can't be read: use labels[key]=value")
		}
	}
	if len(labels) > api.MaxLabels*2 {
		return nil, errs.New(errs.Invalid, "INVALID_FILTER", "the filter names too many labels")
	}
	return labels, nil
}

// parseDict reads a Python dictionary of strings into out; JSON objects of
// strings are a part of the same language.
func parseDict(text string, out map[string]string) bool {
	p := dictParser{rest: strings.TrimSpace(text)}
	if !p.take('{') {
		return false
	}
	for first := true; !p.take('}'); first = false {
		if !first && !p.take(',') {
			return false
		}
		if !first && p.take('}') {
			break
		}
		key, ok1 := p.text()
		colon := p.take(':')
		value, ok2 := p.text()
		if !ok1 || !colon || !ok2 {
			return false
		}
		out[key] = value
	}
	return p.rest == ""
}

type dictParser struct{ rest string }

// take eats a character and the blanks behind it.
func (p *dictParser) take(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = strings.TrimLeft(p.rest[1:], " \t\r\n")
	return true
}

// text eats a string in single or double quotes.
func (p *dictParser) text() (string, bool) {
	if p.rest == "" || (p.rest[0] != '\'' && p.rest[0] != '"') {
		return "", false
	}
	quote, in := p.rest[0], p.rest[1:]
	var out strings.Builder
	for in != "" {
		switch {
		case in[0] == quote:
			p.rest = in
			return out.String(), p.take(quote)
		case in[0] == '\\':
			r, rest, ok := unescape(in)
			if !ok {
				return "", false
			}
			out.WriteRune(r)
			in = rest
		default:
			r, size := utf8.DecodeRuneInString(in)
			out.WriteRune(r)
			in = in[size:]
		}
	}
	return "", false
}

// unescape reads one escape of Python's repr or of JSON.
func unescape(in string) (r rune, rest string, ok bool) {
	if len(in) < 2 {
		return 0, "", false
	}
	switch in[1] {
	case '\\', '\'', '"', '/':
		return rune(in[1]), in[2:], true
	case 'n':
		return '\n', in[2:], true
	case 'r':
		return '\r', in[2:], true
	case 't':
		return '\t', in[2:], true
	case 'x':
		return hexRune(in[2:], 2)
	case 'u':
		return hexRune(in[2:], 4)
	case 'U':
		return hexRune(in[2:], 8)
	}
	return 0, "", false
}

func hexRune(in string, digits int) (r rune, rest string, ok bool) {
	if len(in) < digits {
		return 0, "", false
	}
	for _, c := range []byte(in[:digits]) {
		v := strings.IndexByte("0123456789abcdef", c|0x20)
		if v < 0 || r > utf8.MaxRune>>4 {
			return 0, "", false
		}
		r = r<<4 | rune(v)
	}
	return r, in[digits:], true
}
