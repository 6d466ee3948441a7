//go:build e2e

package harness

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // one of S3's checksums
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// splitQuery decodes the query of a request's target.
func splitQuery(target string) (pairs [][2]string, err error) {
	_, query, _ := strings.Cut(target, "?")
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		var p [2]string
		p[0], p[1], _ = strings.Cut(pair, "=")
		for i := range p {
			if p[i], err = url.QueryUnescape(p[i]); err != nil {
				return nil, badRequest("InvalidURI", "the query can't be decoded")
			}
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// canonicalQuery is everything but the signature, encoded and sorted by name.
func canonicalQuery(query [][2]string) string {
	var pairs [][2]string
	for _, p := range query {
		if p[0] != "X-Amz-Signature" {
			pairs = append(pairs, [2]string{uriEncode(p[0]), uriEncode(p[1])})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	var out []string
	for _, p := range pairs {
		out = append(out, p[0]+"="+p[1])
	}
	return strings.Join(out, "&")
}

// canonicalPath: S3 encodes the key once; other services clean the path as it
// was sent and encode it again.
func (v *verifier) canonicalPath(sent string) string {
	if v.service == "s3" {
		if plain, err := url.PathUnescape(sent); err == nil {
			sent = plain
		}
		return strings.ReplaceAll(uriEncode(sent), "%2F", "/")
	}
	var kept []string
	for part := range strings.SplitSeq(sent, "/") {
		switch {
		case part == "..":
			kept = kept[:max(0, len(kept)-1)]
		case part != "" && part != ".":
			kept = append(kept, uriEncode(part))
		}
	}
	path := "/" + strings.Join(kept, "/")
	if strings.HasSuffix(sent, "/") && len(kept) > 0 {
		path += "/"
	}
	return path
}

// uriEncode is AWS's UriEncode.
func uriEncode(s string) string {
	return strings.NewReplacer("+", "%20", "%7E", "~").Replace(url.QueryEscape(s))
}

// chunkReader reads a body of chunks that is in memory as a whole.
type chunkReader struct {
	v               *verifier
	rest            []byte
	last            string // signature
	signed, trailer bool
	sums            http.Header // from the trailer
}

func (d *chunkReader) read() (data []byte, err error) {
	for {
		chunk, err := d.chunk()
		if err != nil {
			return nil, err
		}
		if len(chunk) == 0 {
			break
		}
		d.v.got.Chunks++
		data = append(data, chunk...)
	}
	if d.sums = (http.Header{}); d.trailer {
		err = d.readTrailer()
	} else {
		err = d.breakLine()
	}
	if err == nil && len(d.rest) > 0 {
		err = badRequest("IncompleteBody", "%q after the end", d.rest)
	}
	return data, err
}

func (d *chunkReader) chunk() ([]byte, error) {
	line, err := d.line()
	if err != nil {
		return nil, err
	}
	digits, signature, hasSignature := strings.Cut(line, ";chunk-signature=")
	size, err := strconv.ParseUint(digits, 16, 31)
	if err != nil || hasSignature != d.signed || int(size) > len(d.rest) {
		return nil, badRequest("IncompleteBody", "a chunk begins with %q", line)
	}
	var data []byte
	data, d.rest = d.rest[:size], d.rest[size:]
	if size > 0 {
		if err := d.breakLine(); err != nil {
			return nil, err
		}
	}
	return data, d.check("chunk", signature, "AWS4-HMAC-SHA256-PAYLOAD", sha256Hex(nil), sha256Hex(data))
}

// check compares a signature with what it has to be, and remembers it.
func (d *chunkReader) check(of, signature, kind string, hashes ...string) error {
	if !d.signed {
		return nil
	}
	if want := d.v.sign(kind, append([]string{d.last}, hashes...)...); signature != want {
		return denied("SignatureDoesNotMatch", "the signature of the %s is %q", of, signature)
	}
	d.last = signature
	return nil
}

func (d *chunkReader) line() (string, error) {
	line, rest, ok := bytes.Cut(d.rest, []byte("\r\n"))
	if !ok {
		return "", badRequest("IncompleteBody", "a line has no end")
	}
	d.rest = rest
	return string(line), nil
}

func (d *chunkReader) breakLine() error {
	line, err := d.line()
	if err == nil && line != "" {
		err = badRequest("IncompleteBody", "%q in place of a line break", line)
	}
	return err
}

// readTrailer reads lines up to the empty one.
func (d *chunkReader) readTrailer() error {
	var signed, signature string
	for {
		line, err := d.line()
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(line, ":")
		switch {
		case line == "":
			return d.check("trailer", signature, "AWS4-HMAC-SHA256-TRAILER", sha256Hex([]byte(signed)))
		case name == "x-amz-trailer-signature":
			signature = value
		default:
			signed += strings.ToLower(name) + ":" + strings.TrimSpace(value) + "\n"
			d.sums.Set(name, strings.TrimSpace(value))
		}
	}
}

// sums are S3's checksums, by header.
var sums = map[string]func() hash.Hash{
	"X-Amz-Checksum-Crc32":     func() hash.Hash { return crc32.NewIEEE() },
	"X-Amz-Checksum-Crc32c":    func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) },
	"X-Amz-Checksum-Crc64nvme": func() hash.Hash { return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5)) },
	"X-Amz-Checksum-Sha1":      sha1.New,
	"X-Amz-Checksum-Sha256":    sha256.New,
}

func (v *verifier) checkSums(h http.Header, data []byte) error {
	for name, newHash := range sums {
		want := h.Get(name)
		if want == "" {
			continue
		}
		sum := newHash()
		sum.Write(data)
		if got := base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != want {
			return badRequest("BadDigest", "%s is %s", name, fmt.Sprint(got, " and not ", want))
		}
	}
	return nil
}
