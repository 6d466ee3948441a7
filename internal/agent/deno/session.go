package deno

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"github.com/atollhq/atoll/api"
)

//go:embed bootstrap.js
var bootstrap string

// errSessionEnded is what calls get whose process ended before the answer.
var errSessionEnded = errors.New("the Deno REPL ended before it answered")

// session is the agent's end of a `deno repl --json` process.
//
// Calls take turns. A call whose caller left goes on to its end, as code that
// already runs can't be taken back; only the end of the process, which closes
// the connection, interrupts it.
type session struct {
	conn io.ReadWriteCloser
	turn chan struct{} // holds one token while a call uses conn
	done chan struct{} // closed by close
	once sync.Once
	dead error // guarded by turn: why conn can't be used any more
}

// newSession takes over conn and prepares the process behind it without
// waiting for it.
func newSession(conn io.ReadWriteCloser) *session {
	s := &session{conn: conn, turn: make(chan struct{}, 1), done: make(chan struct{})}
	s.turn <- struct{}{}
	go func() { // ends with the answer or with conn
		defer s.release()
		if _, err := s.value(bootstrap, false); err != nil {
			s.dead = fmt.Errorf("prepare the Deno REPL: %w", err)
		}
	}()
	return s
}

// close drops the connection, which fails the call that uses it, and keeps
// the turn for good once that call has ended. It is idempotent.
func (s *session) close() {
	s.once.Do(func() {
		close(s.done)
		s.conn.Close()
		s.turn <- struct{}{}
	})
}

func (s *session) release() { <-s.turn }

// eval runs code and returns its value as JSON.
func (s *session) eval(ctx context.Context, code string) (json.RawMessage, error) {
	return s.exchange(ctx, func() (string, error) {
		if _, err := s.value(code, false); err != nil {
			return "", err
		}
		return s.value("await __atoll.result()", true)
	})
}

// call evaluates fn, which must be a function, and returns what it returns
// for args, a JSON list.
func (s *session) call(ctx context.Context, fn string, args json.RawMessage) (json.RawMessage, error) {
	fn = strings.TrimRight(strings.TrimSpace(fn), "; \t\r\n")
	invoke := fmt.Sprintf("await __atoll.call(%s, %s)", literal(shorten(fn)), literal(string(args)))
	return s.exchange(ctx, func() (string, error) {
		if _, err := s.value("("+fn+"\n)", false); err != nil {
			return "", err
		}
		return s.value(invoke, true)
	})
}

// exit asks the process to end by itself, unless other code runs until ctx
// ends: then it returns false. It does not wait for the end.
func (s *session) exit(ctx context.Context) bool {
	select {
	case s.turn <- struct{}{}:
	case <-s.done:
		return true
	case <-ctx.Done():
		return false
	}
	go func() { // ends with conn
		defer s.release()
		if s.dead == nil {
			_, _ = s.value("__atoll.exit()", true)
		}
	}()
	return true
}

// exchange waits for its turn and runs f in it.
func (s *session) exchange(ctx context.Context, f func() (string, error)) (json.RawMessage, error) {
	select {
	case s.turn <- struct{}{}:
	case <-s.done:
		return nil, errSessionEnded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // ends with the answer or with conn
		defer s.release()
		text, err := "", s.dead
		if err == nil {
			text, err = f()
		}
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return json.RawMessage(a.text), a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// value runs code in the caller's turn and returns what it evaluates to. An
// error that the code threw is an *api.RemoteError.
func (s *session) value(code string, output bool) (string, error) {
	reply, err := s.run(code, output)
	if err != nil {
		return "", err
	}
	switch {
	case reply.Type == replySuccess && reply.Output != nil:
		return *reply.Output, nil
	case reply.Type == replySuccess:
		return "", nil
	case reply.Type == replyFailure:
		return "", s.thrown()
	default:
		return "", parseFailure(reply.Error)
	}
}

// thrown fetches the error that the last run threw.
func (s *session) thrown() error {
	reply, err := s.run("__atoll.error()", true)
	if err != nil {
		return err
	}
	var remote api.RemoteError
	if reply.Output == nil || json.Unmarshal([]byte(*reply.Output), &remote) != nil || remote.ConstructorName == "" {
		return &api.RemoteError{ConstructorName: "Error", Message: "the evaluation failed"}
	}
	return &remote
}

// run sends one request and waits for its reply, however long the code takes.
// A connection that failed once stays failed: replies would no longer match.
func (s *session) run(code string, output bool) (replReply, error) {
	var reply replReply
	err := writeFrame(s.conn, replRequest{Type: "Run", Code: code, Output: output})
	if err == nil {
		err = readFrame(s.conn, &reply)
	}
	if err != nil {
		s.dead = errSessionEnded
		return reply, errSessionEnded
	}
	return reply, nil
}

// diagnostic splits "SyntaxError: Expected ident …" into class and message.
var diagnostic = regexp.MustCompile(`(?s)^([A-Z][A-Za-z]*Error): (.*)$`)

// parseFailure is the error for code that was never run.
func parseFailure(text string) *api.RemoteError {
	if m := diagnostic.FindStringSubmatch(text); m != nil {
		return &api.RemoteError{ConstructorName: m[1], Message: m[2], Stack: &text}
	}
	return &api.RemoteError{ConstructorName: "Error", Message: text, Stack: &text}
}

// literal writes s as a JavaScript string.
func literal(s string) string {
	out, err := json.Marshal(s) // JSON strings are JavaScript strings
	if err != nil {
		return `""` // unreachable: strings always encode
	}
	return string(out)
}

// shorten cuts a function's text for use in a message.
func shorten(s string) string {
	const limit = 80
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return s
}
