package deno

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

// startSession runs a real `deno repl` in an empty directory.
func startSession(t *testing.T) *session {
	t.Helper()
	deno := denoBinary(t)
	ours, theirs := pair(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), deno, replArgs([]string{"a", "-b"})...)
	cmd.Dir, cmd.ExtraFiles = dir, []*os.File{theirs}
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "DENO_NO_UPDATE_CHECK=1", "DENO_DIR="+dir+"/.cache")
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	s := newSession(ours)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		s.close()
	})
	return s
}

func pair(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func TestEvalValues(t *testing.T) {
	s := startSession(t)
	for _, tc := range []struct{ code, want string }{
		{"1 + 1", "2"},
		{`"é\n"`, `"é\n"`},
		{"undefined", "null"},
		{"null", "null"},
		{"", "null"},
		{"const x: number = 1", "null"},
		{"x", "1"},
		{"const x = 2; x", "2"},
		{"await new Promise(r => setTimeout(() => r(3), 5))", "3"},
		{"Promise.resolve({a: 4})", `{"a":4}`},
		{"_", `{"a":4}`},
		{"{a: 1}", `{"a":1}`},
		{"[1, undefined, () => 1, Symbol('s'), NaN, -0]", "[1,null,null,null,null,0]"},
		{"({a: undefined, f() {}, b: 1})", `{"b":1}`},
		{"() => 1", "null"},
		{"12345678901234567890n", `"12345678901234567890"`},
		{"new Date(0)", `"1970-01-01T00:00:00.000Z"`},
		{"new Map([['a', new Set([1])]])", `{"a":[1]}`},
		{"new Map([[1, 2]])", "[[1,2]]"},
		{"new Uint8Array([1, 2])", "[1,2]"},
		{"Buffer.from('ab')", "[97,98]"},
		{"new Uint8Array([3]).buffer", "[3]"},
		{"/a/g", `"/a/g"`},
		{"new URL('http://a/b')", `"http://a/b"`},
		{"new Headers({A: 'b'})", `{"a":"b"}`},
		{"class P { #y = 1; constructor(public q: number) {} get g() { return 1 } }; new P(3)", `{"q":3}`},
		{"enum E { A = 3 }; E.A", "3"},
		{"const o = {n: 1}; [o, o]", `[{"n":1},{"n":1}]`},
		{"JSON.parse('{\"__proto__\": 5}')", `{"__proto__":5}`},
		{"import { basename } from 'node:path'; basename('/a/b')", `"b"`},
		{"import _ from 'node:path'; 5", "5"},
		{"typeof _.join", `"function"`},
		{"6", "6"},
		{"Deno.args", `["a","-b"]`},
		{"'x'.repeat(3e5).length", "300000"},
	} {
		got, err := s.eval(t.Context(), tc.code)
		if err != nil || string(got) != tc.want {
			t.Errorf("eval(%s) = %s, %v, want %s", tc.code, got, err, tc.want)
		}
	}
	big, err := s.eval(t.Context(), "['é\"'.repeat(1e5)]")
	if err != nil || len(big) != 4e5+4 {
		t.Errorf("large value: %d bytes, %v", len(big), err)
	}
}

func TestEvalErrors(t *testing.T) {
	s := startSession(t)
	for _, tc := range []struct{ code, class, message string }{
		{"throw new TypeError('boo')", "TypeError", "boo"},
		{"class MyError extends Error { code = 'E1' }; throw new MyError('m', {cause: new RangeError('c')})", "MyError", "m"},
		{"await Promise.reject(new RangeError('r'))", "RangeError", "r"},
		{"Promise.reject(new RangeError('r'))", "RangeError", "r"},
		{"let a b", "SyntaxError", "Expected a semicolon"},
		{"nope", "ReferenceError", "nope is not defined"},
		{"import.meta.url", "SyntaxError", "Cannot use 'import.meta' outside a module"},
		{"Deno.readTextFileSync('/nonexistent')", "NotFound", "No such file or directory"},
		{"throw 3", "Error", "Uncaught 3"},
		{"throw undefined", "Error", "Uncaught undefined"},
		{"const c = {a: []}; c.a.push(c); c", "TypeError", "The value can't be returned because it contains itself, at .a[0]"},
		{"['x'.repeat(40e6)]", "RangeError", "The value is too large to return"},
		{"new Proxy({}, {ownKeys() { throw new EvalError('t') }})", "EvalError", "t"},
	} {
		_, err := s.eval(t.Context(), tc.code)
		remote, ok := errors.AsType[*api.RemoteError](err)
		if !ok || remote.ConstructorName != tc.class || !strings.HasPrefix(remote.Message, tc.message) {
			t.Errorf("eval(%s): %#v (%v)", tc.code, remote, err)
		}
	}
	_, err := s.eval(t.Context(), "throw new MyError('m', {cause: new RangeError('c')})")
	remote, ok := errors.AsType[*api.RemoteError](err)
	if !ok || *remote.Code != "E1" || remote.Cause.ConstructorName != "RangeError" || !strings.Contains(*remote.Stack, "MyError: m") && !strings.Contains(*remote.Stack, "Error: m") {
		t.Errorf("details: %#v (%v)", remote, err)
	}
}

func TestCall(t *testing.T) {
	s := startSession(t)
	if _, err := s.eval(t.Context(), "function add(a: number, b: number) { return a + b }; const sub = async (a, b) => a - b"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ fn, args, want string }{
		{"add", "[1,2]", "3"},
		{"sub", "[1,2]", "-1"},
		{"(a, b) => a + b; ", `["é","</script>"]`, `"é</script>"`},
		{"function (a, b) { return [b, a] } // swap", "[null,{}]", "[{},null]"},
		{"async (x: {y: string}) => await x.y", `[{"y":"z\u2028"}]`, `"z` + "\u2028" + `"`},
		{"() => {}", "[]", "null"},
	} {
		got, err := s.call(t.Context(), tc.fn, json.RawMessage(tc.args))
		if err != nil || string(got) != tc.want {
			t.Errorf("call(%s, %s) = %s, %v, want %s", tc.fn, tc.args, got, err, tc.want)
		}
	}
	for _, tc := range []struct{ fn, class, message string }{
		{"nope", "ReferenceError", "nope is not defined"},
		{"5", "TypeError", "5 is not a function"},
		{"() => { throw new RangeError('r') }", "RangeError", "r"},
		{"(", "SyntaxError", ""},
	} {
		_, err := s.call(t.Context(), tc.fn, json.RawMessage("[]"))
		remote, ok := errors.AsType[*api.RemoteError](err)
		if !ok || remote.ConstructorName != tc.class || !strings.HasPrefix(remote.Message, tc.message) {
			t.Errorf("call(%s): %#v (%v)", tc.fn, remote, err)
		}
	}
}

func TestSessionExit(t *testing.T) {
	s := startSession(t)
	if _, err := s.eval(t.Context(), "console.log('out')"); err != nil {
		t.Fatal(err)
	}
	if !s.exit(t.Context()) {
		t.Error("an idle session is busy")
	}
	if _, err := s.eval(t.Context(), "1"); !errors.Is(err, errSessionEnded) {
		t.Errorf("eval after exit: %v", err)
	}
}

func TestAbandonedEval(t *testing.T) {
	s := startSession(t)
	if _, err := s.eval(t.Context(), "0"); err != nil { // ready
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.eval(ctx, "await new Promise(r => setTimeout(r, 300)); globalThis.done = 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("abandoned: %v", err)
	}
	if got, err := s.eval(t.Context(), "done"); err != nil || string(got) != "1" {
		t.Errorf("next: %s, %v", got, err)
	}
}

// TestSessionDies: the process goes away while it evaluates.
func TestSessionDies(t *testing.T) {
	ours, theirs := pair(t)
	s := newSession(ours)
	go func() {
		io.ReadFull(theirs, make([]byte, 10))
		theirs.Close()
	}()
	if _, err := s.eval(t.Context(), "1"); err == nil {
		t.Error("eval succeeds without a process")
	}
	s.close()
	if _, err := s.eval(t.Context(), "1"); !errors.Is(err, errSessionEnded) {
		t.Errorf("after close: %v", err)
	}
}

func TestFrameBounds(t *testing.T) {
	huge := binary.LittleEndian.AppendUint32(nil, maxFrame+1)
	if err := readFrame(bytes.NewReader(huge), new(replReply)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("huge frame: %v", err)
	}
	cut := append(binary.LittleEndian.AppendUint32(nil, 50<<20), '{')
	if err := readFrame(bytes.NewReader(cut), new(replReply)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut frame: %v", err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, in []byte) {
		var reply replReply
		_ = readFrame(bytes.NewReader(in), &reply)
		_ = parseFailure(string(in))
	})
}

func TestParseFailure(t *testing.T) {
	e := parseFailure("SyntaxError: Expected ident\n  |")
	if e.ConstructorName != "SyntaxError" || e.Message != "Expected ident\n  |" {
		t.Errorf("%#v", e)
	}
	if e := parseFailure("no such package"); e.ConstructorName != "Error" || e.Message != "no such package" {
		t.Errorf("%#v", e)
	}
}
