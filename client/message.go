package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Messages that carry bulk data are read and written without a pass of the
// general JSON decoder: their envelope is compared with the one form that the
// server writes, the data is decoded from base64 in place. Anything that
// looks different in any byte takes the general path, so the short cut never
// changes what is accepted.
const (
	enqueueHead = `{"jsonrpc":"2.0","method":"` + api.NotifyStreamEnqueue + `","params":{"streamId":`
	enqueueData = `,"data":"`
	enqueueTail = `"}}`
	replyHead   = `{"jsonrpc":"2.0","id":`
	replyResult = `,"result":`
)

// bulkParams are parameters of which one field is large binary data.
type bulkParams struct {
	rest  any // encodes to a JSON object with at least one field
	field string
	data  []byte
}

// appendRequest appends a request, or with a nil id a notification.
func appendRequest(dst []byte, id *int64, method string, params any) ([]byte, error) {
	bulk, isBulk := params.(bulkParams)
	if isBulk {
		params = bulk.rest
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("encode parameters of %s: %w", method, err)
	}
	if dst == nil {
		dst = make([]byte, 0, 96+len(method)+len(encoded)+base64.StdEncoding.EncodedLen(len(bulk.data)))
	}
	dst = append(dst, `{"jsonrpc":"2.0"`...)
	if id != nil {
		dst = strconv.AppendInt(append(dst, `,"id":`...), *id, 10)
	}
	dst = append(append(dst, `,"method":"`...), method...)
	dst = append(append(dst, `","params":`...), encoded...)
	if isBulk {
		dst = append(dst[:len(dst)-1], `,"`+bulk.field+`":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, bulk.data), `"}`...)
	}
	return append(dst, '}'), nil
}

// appendEnqueue appends the notification that carries one piece of a stream.
func appendEnqueue(dst []byte, stream int64, data []byte) []byte {
	dst = strconv.AppendInt(append(dst, enqueueHead...), stream, 10)
	dst = base64.StdEncoding.AppendEncode(append(dst, enqueueData...), data)
	return append(dst, enqueueTail...)
}

// cutEnqueue recognises a stream message in the server's own form and
// returns the stream and its still encoded data.
func cutEnqueue(msg []byte) (stream int64, encoded []byte, ok bool) {
	rest, ok := bytes.CutPrefix(msg, []byte(enqueueHead))
	if !ok {
		return 0, nil, false
	}
	stream, rest, ok = cutInt(rest)
	if !ok {
		return 0, nil, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(enqueueData)); !ok {
		return 0, nil, false
	}
	encoded, ok = bytes.CutSuffix(rest, []byte(enqueueTail))
	return stream, encoded, ok
}

// cutReply recognises a successful response in the server's own form. The
// result is not validated yet: whoever decodes it does that.
func cutReply(msg []byte) (id int64, result []byte, ok bool) {
	rest, ok := bytes.CutPrefix(msg, []byte(replyHead))
	if !ok {
		return 0, nil, false
	}
	if id, rest, ok = cutInt(rest); !ok {
		return 0, nil, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(replyResult)); !ok {
		return 0, nil, false
	}
	result, ok = bytes.CutSuffix(rest, []byte("}"))
	return id, result, ok
}

func cutInt(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 18 && '0' <= b[i] && b[i] <= '9' {
		n = n*10 + int64(b[i]-'0')
		i++
	}
	return n, b[i:], i > 0
}

// cutBytes finds the base64 text of a result of the form head + text + tail
// and decodes it. It reports false for every other form.
func cutBytes(result []byte, head, tail string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(result, []byte(head))
	if !ok {
		return nil, false
	}
	if rest, ok = bytes.CutSuffix(rest, []byte(tail)); !ok {
		return nil, false
	}
	return decodeStrict(rest)
}

// decodeStrict decodes padded base64 without line breaks, which the standard
// decoder would skip.
func decodeStrict(text []byte) ([]byte, bool) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(out, text)
	if err != nil || base64.StdEncoding.EncodedLen(n) != len(text) {
		return nil, false
	}
	return out[:n], true
}

// envelope is any message of the server.
type envelope struct {
	ID     *int64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *api.RPCError   `json:"error"`
}

// dispatch handles one message. It reports whether it kept a reference to
// msg. An error ends the connection.
func (c *conn) dispatch(msg []byte) (kept bool, err error) {
	if string(msg) == api.PongText {
		return false, nil
	}
	if stream, encoded, ok := cutEnqueue(msg); ok {
		if data, ok := decodeStrict(encoded); ok {
			return false, c.enqueue(stream, data)
		}
	}
	if id, result, ok := cutReply(msg); ok {
		c.resolve(id, reply{result: result})
		return true, nil
	}
	var e envelope
	if err := json.Unmarshal(msg, &e); err != nil {
		return false, &CloseError{Code: 4000, Reason: "the server sent invalid JSON", Err: err}
	}
	switch {
	case e.ID == nil:
		return false, c.handleNotification(e.Method, e.Params)
	case e.Method != "":
		return false, nil // servers make no requests
	case e.Error != nil:
		c.resolve(*e.ID, reply{err: e.Error})
	default:
		c.resolve(*e.ID, reply{result: e.Result})
	}
	return false, nil
}

// handleNotification handles stream and watcher messages; unknown methods are
// ignored so that newer servers can add some.
func (c *conn) handleNotification(method string, params json.RawMessage) error {
	if method == api.NotifyWatcherRestart {
		var p api.WatcherRestartParams
		if json.Unmarshal(params, &p) == nil {
			c.watcherRestarted(p.WatcherID)
		}
		return nil
	}
	var p api.StreamParams
	switch method {
	case api.NotifyStreamStart, api.NotifyStreamEnqueue, api.NotifyStreamEnd,
		api.NotifyStreamError, api.NotifyStreamCancel:
		if err := json.Unmarshal(params, &p); err != nil {
			return &CloseError{Code: 4001, Reason: "the server sent a malformed " + method, Err: err}
		}
	}
	switch method {
	case api.NotifyStreamStart:
		_, err := c.inStream(p.StreamID)
		return err
	case api.NotifyStreamEnqueue:
		return c.enqueue(p.StreamID, p.Data)
	case api.NotifyStreamEnd:
		c.endStream(p.StreamID, nil)
	case api.NotifyStreamError:
		c.endStream(p.StreamID, streamFailure(p.Error))
	case api.NotifyStreamCancel:
		c.cancelOut(p.StreamID)
	}
	return nil
}

func streamFailure(remote *api.RemoteError) error {
	if remote == nil {
		remote = &api.RemoteError{ConstructorName: "Error", Message: "the stream failed"}
	}
	return &Error{Method: "stream", Remote: remote}
}

// tooManyStreams ends a connection whose server starts streams nobody asked
// for.
func tooManyStreams() error {
	return &CloseError{Code: int(websocket.StatusPolicyViolation), Reason: "the server started too many streams"}
}
