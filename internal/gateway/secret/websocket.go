package secret

import "bytes"

// TextToServer rewrites one WebSocket text message after the other; nil when
// nothing is to be replaced.
func (x *Exchange) TextToServer() Rewriter {
	if !x.may("websocket") {
		return nil
	}
	return &text{plain: x.fill("websocket", asIs), json: x.fill("websocket", jsonText, slash)}
}

// text rewrites text messages, of which those that begin like JSON are
// written as JSON is.
type text struct {
	plain, json, current *stream
}

// Rewrite implements Rewriter.
func (t *text) Rewrite(dst, piece []byte, last bool) ([]byte, error) {
	if t.current == nil {
		begin := bytes.TrimLeft(piece, " \t\r\n")
		if len(begin) == 0 && !last {
			return append(dst, piece...), nil
		}
		t.current = t.plain
		if len(begin) > 0 && bytes.IndexByte([]byte(`{["`), begin[0]) >= 0 {
			t.current = t.json
		}
	}
	dst, err := t.current.Rewrite(dst, piece, last)
	if last {
		t.current = nil
	}
	return dst, err
}

// FromServer rewrites WebSocket messages from the server. With text set, the
// length may change; otherwise it stays. Nil when nothing is to be replaced.
func (x *Exchange) FromServer(text bool) Rewriter {
	if x.redactor == nil {
		return nil
	}
	return x.redactor.redact(!text)
}

// Rewriter rewrites a stream that comes in pieces.
type Rewriter interface {
	// Rewrite takes the next piece and appends what is settled by now to dst.
	// What may be the beginning of something to replace is held back, which is
	// no longer than the longest form of a value; with last set, nothing is.
	// After that, the next piece begins a new stream.
	Rewrite(dst, piece []byte, last bool) ([]byte, error)
}
