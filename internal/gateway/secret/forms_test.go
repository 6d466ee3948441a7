package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"

	"pgregory.net/rapid"
)

// values are what secrets look like, with what needs escaping in it.
var values = rapid.StringOfN(rapid.SampledFrom([]rune(`abcdefghXYZ0189-_./+=:~ "\&<%'é😀`)), 8, 40, -1)

// encodings write a value in one way each; before is what stands in front.
var encodings = map[string]func(t *rapid.T, before, value string) string{
	"raw": func(_ *rapid.T, before, v string) string { return before + v },
	"base64": func(_ *rapid.T, before, v string) string {
		return base64.StdEncoding.EncodeToString([]byte(before + v))
	},
	"base64 raw": func(_ *rapid.T, before, v string) string {
		return base64.RawStdEncoding.EncodeToString([]byte(before + v))
	},
	"base64 url": func(_ *rapid.T, before, v string) string {
		return base64.URLEncoding.EncodeToString([]byte(before + v))
	},
	"hex": func(_ *rapid.T, before, v string) string { return hex.EncodeToString([]byte(before + v)) },
	"upper hex": func(_ *rapid.T, before, v string) string {
		return strings.ToUpper(hex.EncodeToString([]byte(before + v)))
	},
	"query": func(_ *rapid.T, before, v string) string { return url.QueryEscape(before + v) },
	"path":  func(_ *rapid.T, before, v string) string { return url.PathEscape(before + v) },
	"json": func(_ *rapid.T, before, v string) string {
		b, _ := json.Marshal(before + v)
		return string(b)
	},
	"html": func(_ *rapid.T, before, v string) string { return html.EscapeString(before + v) },
	"percent": anyOf(func(s string) string { return hexBytes("%%%02x", s) },
		func(s string) string { return hexBytes("%%%02X", s) }),
	"slashes":  anyOf(escapeUnicode),
	"entities": anyOf(func(s string) string { return fmt.Sprintf("&#%d;", []rune(s)[0]) }, func(s string) string { return fmt.Sprintf("&#x%04X;", []rune(s)[0]) }),
}

func hexBytes(format, s string) (out string) {
	for i := range len(s) {
		out += fmt.Sprintf(format, s[i])
	}
	return out
}

func escapeUnicode(s string) string {
	r := []rune(s)[0]
	if r == '/' {
		return `\/`
	}
	if r < 0x10000 {
		return fmt.Sprintf(`\u%04x`, r)
	}
	r -= 0x10000
	return fmt.Sprintf(`\u%04X\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
}

// anyOf escapes any of the characters, but those always that begin an escape.
func anyOf(ways ...func(string) string) func(*rapid.T, string, string) string {
	return func(t *rapid.T, before, v string) string {
		out := before
		for _, r := range v {
			way := rapid.IntRange(0, len(ways)).Draw(t, "way")
			if strings.ContainsRune(`%\&`, r) {
				way = max(way, 1)
			}
			if way == 0 {
				out += string(r)
			} else {
				out += ways[way-1](string(r))
			}
		}
		return out
	}
}

// survives looks for a value with code that shares nothing with the finder.
func survives(text, value string) bool {
	for _, read := range []string{text, html.UnescapeString(text), unpercent(text, false), unpercent(text, true), unslash(text)} {
		if strings.Contains(read, value) {
			return true
		}
	}
	return strings.Contains(text, hex.EncodeToString([]byte(value))) ||
		strings.Contains(text, strings.ToUpper(hex.EncodeToString([]byte(value)))) || survives64(text, value)
}

func survives64(text, value string) bool {
	for _, alphabet := range []string{standard, urlSafe} {
		enc := base64.NewEncoding(alphabet).WithPadding(base64.NoPadding)
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune(alphabet, r) }) {
			for skip := range min(4, len(word)) {
				word := word[skip:]
				whole, _ := enc.DecodeString(word)
				groups, _ := enc.DecodeString(word[:len(word)/4*4])
				if strings.Contains(string(whole), value) || strings.Contains(string(groups), value) {
					return true
				}
			}
		}
	}
	return false
}

func unpercent(s string, plus bool) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		b, err := hex.DecodeString(s[min(i+1, len(s)):min(i+3, len(s))])
		switch {
		case s[i] == '%' && err == nil && len(b) == 1:
			out = append(out, b[0])
			i += 2
		case plus && s[i] == '+':
			out = append(out, ' ')
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}

func unslash(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		size := 1
		for n := min(12, len(s)-i); n > 1 && s[i] == '\\'; n-- {
			var one string
			if json.Unmarshal([]byte(`"`+s[i:i+n]+`"`), &one) == nil && len([]rune(one)) == 1 {
				out.WriteString(one)
				size = n
				break
			}
		}
		if size == 1 {
			out.WriteByte(s[i])
		}
		i += size
	}
	return out.String()
}
