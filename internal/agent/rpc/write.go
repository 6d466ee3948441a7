package rpc

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	frameHeader = 4         // bytes that package link puts before each frame
	moreFrames  = 1 << 31   // set in the header of every frame but the last
	pooledSize  = 512 << 10 // buffers up to this size are used again
)

// outBuffer holds one outgoing message behind room for its first frame's
// header.
type outBuffer struct{ b []byte }

var outBuffers = sync.Pool{New: func() any {
	return &outBuffer{b: make([]byte, frameHeader, 4<<10)}
}}

func newOutBuffer() *outBuffer {
	o := outBuffers.Get().(*outBuffer)
	o.b = o.b[:frameHeader]
	return o
}

func (o *outBuffer) free() {
	if cap(o.b) <= pooledSize {
		outBuffers.Put(o)
	}
}

// size is the message's length in bytes.
func (o *outBuffer) size() int { return len(o.b) - frameHeader }

// writeTo sends the message in frames without moving it: the header of each
// frame is put over the end of the one before, which has been sent by then.
func (o *outBuffer) writeTo(w io.Writer) error {
	for at := 0; ; {
		size := min(len(o.b)-at-frameHeader, link.MaxFrame)
		end := at + frameHeader + size
		word := uint32(size)
		if end < len(o.b) {
			word |= moreFrames
		}
		binary.BigEndian.PutUint32(o.b[at:], word)
		if _, err := w.Write(o.b[at:end]); err != nil {
			return err
		}
		if end == len(o.b) {
			return nil
		}
		at = end - frameHeader
	}
}

// appendResult appends a response with a method's result.
func appendResult(dst, id []byte, result any) ([]byte, error) {
	dst = appendOK(dst, id)
	dst, err := appendValue(dst, result)
	return append(dst, "}}"...), err
}

func appendOK(dst, id []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	return append(dst, `,"result":{"ok":`...)
}

func appendRemoteError(dst, id []byte, e *api.RemoteError) ([]byte, error) {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	dst = append(dst, `,"result":{"error":`...)
	dst, err := appendValue(dst, e)
	return append(dst, "}}"...), err
}

func appendRPCError(dst, id []byte, e *api.RPCError) ([]byte, error) {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	dst = append(dst, `,"error":`...)
	dst, err := appendValue(dst, e)
	return append(dst, '}'), err
}

// appendNotification appends a notification.
func appendNotification(dst []byte, method string, params any) ([]byte, error) {
	dst = append(dst, `{"jsonrpc":"2.0","method":"`...)
	dst = append(dst, method...)
	dst = append(dst, `","params":`...)
	dst, err := appendValue(dst, params)
	return append(dst, '}'), err
}

// appendStream appends a stream notification up to its stream's id.
func appendStream(dst []byte, method string, id int64) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"`...)
	dst = append(dst, method...)
	dst = append(dst, `","params":{"streamId":`...)
	return strconv.AppendInt(dst, id, 10)
}

// appendEnqueue appends a message with stream data.
func appendEnqueue(dst []byte, id int64, data []byte) []byte {
	dst = appendStream(dst, api.NotifyStreamEnqueue, id)
	dst = append(dst, `,"data":"`...)
	dst = appendBase64(dst, data)
	return append(dst, `"}}`...)
}

// enqueueOverhead is more than what appendEnqueue adds to the data.
const enqueueOverhead = 128

// appendStreamError appends a stream notification with an error under a name.
func appendStreamError(dst []byte, method string, id int64, name string, e *api.RemoteError) []byte {
	dst = appendStream(dst, method, id)
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":`...)
	at := len(dst)
	dst, err := appendValue(dst, e)
	if err != nil {
		dst = append(dst[:at], "null"...)
	}
	return append(dst, "}}"...)
}

// appendValue appends any value as JSON. Large results take short ways.
func appendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case Null:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return appendText(dst, v), nil
	case api.Bytes:
		return appendBytes(dst, v), nil
	case api.FileReadResult:
		if v.Data == nil {
			return append(dst, `{"data":null}`...), nil
		}
		dst = appendBytes(append(dst, `{"data":`...), *v.Data)
		return append(dst, '}'), nil
	}
	out, err := jsonv2.Marshal(v, jsontext.AllowInvalidUTF8(true), jsonv2.Deterministic(true))
	if err != nil {
		return dst, fmt.Errorf("encode result: %w", err)
	}
	return append(dst, out...), nil
}

func appendBytes(dst, data []byte) []byte {
	dst = append(dst, '"')
	dst = appendBase64(dst, data)
	return append(dst, '"')
}

// appendText appends a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendText(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		dst, _ = jsontext.AppendQuote(dst, s)
		return dst
	}
	rest := unsafe.Slice(unsafe.StringData(s), len(s)) // only read: a copy could be 100 MB
	dst = append(slices.Grow(dst, len(s)+2), '"')
	for {
		n := untilSpecial(rest)
		dst = append(dst, rest[:n]...)
		if n == len(rest) {
			return append(dst, '"')
		}
		dst = appendEscaped(dst, rest[n])
		rest = rest[n+1:]
	}
}

func appendEscaped(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
}

// writeBytesResult sends a response with binary data frame by frame, so that
// the whole message is never in memory.
func writeBytesResult(w io.Writer, id []byte, data []byte) error {
	const part = link.MaxFrame / 4 / 2 * 3 // a multiple of 3: no padding inside
	o := newOutBuffer()
	defer o.free()
	o.b = append(appendOK(o.b, id), '"')
	for {
		n := min(len(data), part)
		o.b = appendBase64(o.b, data[:n])
		data = data[n:]
		word := uint32(moreFrames)
		if len(data) == 0 {
			o.b = append(o.b, `"}}`...)
			word = 0
		}
		binary.BigEndian.PutUint32(o.b, word|uint32(o.size()))
		if _, err := w.Write(o.b); err != nil {
			return err
		}
		if len(data) == 0 {
			return nil
		}
		o.b = o.b[:frameHeader]
	}
}
