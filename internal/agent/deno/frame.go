package deno

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// maxFrame bounds one message of a session, in bytes. A result is at most
// 32 Mi UTF-16 units (bootstrap.js), which JSON escaping can triple.
const maxFrame = 100 << 20

// A replRequest asks the session to run code; Output asks for the value of
// its last expression, converted with String().
type replRequest struct {
	Type   string `json:"type"` // always "Run"
	Code   string `json:"code"`
	Output bool   `json:"output"`
}

// The kinds of reply.
const (
	replySuccess = "RunSuccess" // Output is set if it was asked for
	replyFailure = "RunFailure" // the code threw; the session keeps the value
	replyError   = "Error"      // the code did not parse, or could not be loaded
)

// A replReply answers one replRequest.
type replReply struct {
	Type   string  `json:"type"`
	Output *string `json:"output"`
	Error  string  `json:"error"`
}

// writeFrame sends v as JSON behind its length, 32 bits little-endian.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("encode frame: %d bytes exceed the limit of %d", len(body), maxFrame)
	}
	out := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(out, body...))
	return err
}

// readFrame reads one frame into v. The reader is hostile: memory grows with
// what arrives, never with what the length claims.
func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("read frame: %d bytes exceed the limit of %d", n, maxFrame)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode frame: %w", err)
	}
	return nil
}
