package fs

import (
	"context"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// readStep is how much of a regular file is read before ctx is looked at.
	readStep = 4 << 20
	// readMin is the smallest buffer for a file of unknown size.
	readMin = 16 << 10
	// answerOverhead is what a result's JSON takes around its data.
	answerOverhead = 1 << 10
)

// maxRaw is how many bytes fit into a message in base64.
func maxRaw(message int64) int64 { return (message - answerOverhead) / 4 * 3 }

// readFile returns a whole file, unless it has more than limit bytes.
func (s *Service) readFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	var data []byte
	var rest *file // a file that has to be waited for
	err := s.pool.do(ctx, func() error {
		f, err := s.openNow(path, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if f.polled {
			rest = f
			return nil
		}
		defer f.Close()
		data, err = readRegular(ctx, f, path, limit)
		return err
	})
	if err == nil && rest != nil {
		defer rest.Close()
		data, err = readAll(nil, path, limit, func(buf []byte) (int, error) { return rest.read(ctx, buf) })
	}
	if err != nil {
		return nil, failed(err, "readfile", path)
	}
	return data, nil
}

// readRegular reads on a worker. The size that the file claims is where the
// buffer starts; files like those in /proc claim none.
func readRegular(ctx context.Context, f *file, path string, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, unix.EISDIR
	}
	size := int64(0)
	if f.regular {
		size = info.Size()
	}
	if size > limit {
		return nil, tooLarge(path, size, limit)
	}
	// One byte more, so that the read that finds the end needs no growth.
	return readAll(make([]byte, 0, size+1), path, limit, func(buf []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return f.Read(buf[:min(len(buf), readStep)])
	})
}

// readAll appends to data what read yields up to io.EOF.
func readAll(data []byte, path string, limit int64, read func([]byte) (int, error)) ([]byte, error) {
	for {
		if len(data) == cap(data) {
			grown := make([]byte, len(data), max(2*cap(data), readMin))
			copy(grown, data)
			data = grown
		}
		n, err := read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, tooLarge(path, int64(len(data)), limit)
		}
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// readTextFile returns a whole file as text of which the JSON form has at most
// limit bytes. What is not UTF-8 is replaced.
func (s *Service) readTextFile(ctx context.Context, path string, limit int64) (string, error) {
	data, err := s.readFile(ctx, path, limit)
	if err != nil {
		return "", err
	}
	text := decodeText(data)
	if n := int64(jsonLength(text)); n > limit {
		return "", tooLarge(path, n, limit)
	}
	return text, nil
}

// decodeText decodes UTF-8 as the Encoding standard's decoder does: each
// longest beginning of a character that does not go on becomes one U+FFFD.
func decodeText(data []byte) string {
	if utf8.Valid(data) {
		return string(data)
	}
	var out strings.Builder
	out.Grow(len(data))
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			size = brokenPrefix(data)
		}
		out.WriteRune(r)
		data = data[size:]
	}
	return out.String()
}

// brokenPrefix is the length of the malformed sequence that data begins with:
// the longest proper beginning of some character, at least one byte.
func brokenPrefix(data []byte) int {
	n := 1
	for n < len(data) && n < utf8.UTFMax && !utf8.FullRune(data[:n]) {
		if utf8.FullRune(data[:n+1]) {
			if _, size := utf8.DecodeRune(data[:n+1]); size == 1 {
				return n // the next byte does not continue it
			}
		}
		n++
	}
	return n
}

// jsonLength is the length of s as a JSON string.
func jsonLength(s string) int {
	n := len(s) + 2
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f':
			n++
		case c < 0x20:
			n += len(`\u0000`) - 1
		}
	}
	return n
}
