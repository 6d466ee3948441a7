package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"syscall"
	"testing"

	"github.com/atollhq/atoll/api"
)

func fieldsOfType[P any]() []field { return fieldsOf(reflect.TypeFor[P]()) }

func decodeInto[P any](fields []field, p params, out *P) []api.ValidationIssue {
	return decodeParams(fields, p, reflect.ValueOf(out).Elem())
}

func parseParams(t *testing.T, text string) params {
	t.Helper()
	m, bad := parseMessage([]byte(`{"id":1,"method":"m","params":` + text + `}`))
	if bad != nil {
		t.Fatal(bad)
	}
	return m.params
}

func TestDecodeEmbedded(t *testing.T) {
	type outer struct{ api.SpawnParams }
	var p outer
	issues := decodeInto(fieldsOfType[outer](), parseParams(t, `{"command":"c","args":["a","b"],"env":{"k":"v"},"clearEnv":true,"cwd":null,"stdinStreamId":4,"stdout":"piped","stderr":"null"}`), &p)
	if issues != nil || p.Command != "c" || len(p.Args) != 2 || p.Env["k"] != "v" || !*p.ClearEnv || p.Cwd != nil || *p.StdinStreamID != 4 || p.Stderr != "null" {
		t.Errorf("got %+v, %v", p, issues)
	}
}

func TestDecodeWalkOptions(t *testing.T) {
	var p api.WalkParams
	issues := decodeInto(fieldsOfType[api.WalkParams](), parseParams(t, `{"path":"/","maxDepth":2,"exts":["ts"],"match":[{"source":"a","flags":"i"}],"options":{"maxDepth":3}}`), &p)
	if issues != nil || *p.MaxDepth != 2 || *p.Options.MaxDepth != 3 || p.Match[0].Flags != "i" {
		t.Errorf("got %+v, %v", p, issues)
	}
}

func TestIssues(t *testing.T) {
	for _, tt := range []struct{ params, want string }{
		{`{}`, `[{invalid_type string [command] Invalid input: expected string, received undefined} {invalid_type string [stdout] Invalid input: expected string, received undefined} {invalid_type string [stderr] Invalid input: expected string, received undefined}]`},
		{`{"command":["x"],"stdout":"null","stderr":"null"}`, `[{invalid_type string [command] Invalid input: expected string, received array}]`},
		{`{"command":"x","args":["a",5],"stdout":"null","stderr":"null"}`, `[{invalid_type string [args 1] Invalid input: expected string, received number}]`},
		{`{"command":"x","env":{"k":{}},"stdout":"null","stderr":"null"}`, `[{invalid_type string [env k] Invalid input: expected string, received object}]`},
		{`{"command":"x","clearEnv":"no","stdout":"null","stderr":"null"}`, `[{invalid_type boolean [clearEnv] Invalid input: expected boolean, received string}]`},
		{`{"command":"x","stdinStreamId":"no","stdout":"null","stderr":"null"}`, `[{invalid_type int [stdinStreamId] Invalid input: expected int, received string}]`},
	} {
		var p api.SpawnParams
		if got := fmt.Sprint(decodeInto(fieldsOfType[api.SpawnParams](), parseParams(t, tt.params), &p)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.params, got, tt.want)
		}
	}
}

func TestDecodeDatesAndBigNumbers(t *testing.T) {
	var u api.UtimeParams
	issues := decodeInto(fieldsOfType[api.UtimeParams](), parseParams(t, `{"path":"","atime":1.5,"mtime":"2026-01-02T03:04:05.678Z"}`), &u)
	if issues != nil || u.Atime.UnixMilli() != 1500 || u.Mtime.Nanosecond() != 678e6 {
		t.Errorf("got %+v, %v", u, issues)
	}
	var s api.FileSeekParams
	for _, offset := range []string{`9007199254740993`, `"9007199254740993"`} {
		issues = decodeInto(fieldsOfType[api.FileSeekParams](), parseParams(t, `{"fileHandleId":1,"offset":`+offset+`,"whence":0}`), &s)
		if issues != nil || s.Offset != 9007199254740993 {
			t.Errorf("got %+v, %v", s, issues)
		}
	}
	if issues = decodeInto(fieldsOfType[api.FileSeekParams](), parseParams(t, `{"fileHandleId":1,"offset":"x","whence":0}`), &s); len(issues) != 1 || issues[0].Path[0] != "offset" {
		t.Errorf("got %v", issues)
	}
}

func TestFromOS(t *testing.T) {
	for _, tt := range []struct {
		op   string
		err  error
		want string
	}{
		{"stat '/x'", syscall.ENOENT, "NotFound ENOENT No such file or directory (os error 2): stat '/x'"},
		{"", &fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, "PermissionDenied EACCES Permission denied (os error 13): open '/x'"},
		{"", &os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EXDEV}, "Error EXDEV Invalid cross-device link (os error 18): rename 'a' -> 'b'"},
		{"rm", syscall.ENOTEMPTY, "Error ENOTEMPTY Directory not empty (os error 39): rm"},
		{"", fmt.Errorf("wrapped: %w", syscall.ELOOP), "FilesystemLoop ELOOP Too many levels of symbolic links (os error 40)"},
		{"x", context.Canceled, "DOMException  The signal has been aborted"},
		{"", io.ErrUnexpectedEOF, "UnexpectedEof  Unexpected end of input"},
		{"", os.ErrClosed, "BadResource EBADF Bad resource ID"},
		{"", errors.New("odd"), "Error  odd"},
		{"", fmt.Errorf("w: %w", NewError("TypeError", "E", "m")), "TypeError E m"},
	} {
		e := FromOS(tt.op, tt.err)
		code := ""
		if e.Code != nil {
			code = *e.Code
		}
		if got := fmt.Sprintf("%s %s %s", e.ConstructorName, code, e.Message); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}
