package fs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// patience is how long a test waits for what should come at once.
const patience = time.Minute

// client is an SDK at the other end of a connection.
type client struct {
	t    *testing.T
	s    *Service
	home string
	conn net.Conn
	done chan struct{} // closed when the connection has been served

	mu      sync.Mutex
	writing sync.Mutex
	nextID  int
	answers map[string]chan api.Response
	notes   chan api.Request // stream notifications, in order
}

// connect serves a fresh directory to one client.
func connect(t *testing.T, maxMessage int) *client {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	reg := rpc.NewRegistry()
	s := Register(reg, Config{UserID: uint32(os.Getuid()), GroupID: uint32(os.Getgid()), Home: home, TempDir: home})
	near, far := net.Pipe()
	c := &client{t: t, s: s, home: home, conn: near, done: make(chan struct{}), answers: map[string]chan api.Response{}, notes: make(chan api.Request, 10_000)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(c.done)
		_ = rpc.Serve(ctx, far, link.RPCHeader{MaxMessage: maxMessage}, reg, slog.New(slog.DiscardHandler), rpc.Limits{SpillDir: home})
	}()
	go c.read()
	t.Cleanup(func() { cancel(); c.close(); s.Close() })
	return c
}

// close ends the connection and waits until the server has seen it.
func (c *client) close() {
	_ = c.conn.Close()
	<-c.done
}

func (c *client) read() {
	frames := link.NewFrameReader(c.conn)
	for {
		b, err := frames.ReadMessage(1 << 30)
		if err != nil {
			close(c.notes)
			return
		}
		var note api.Request
		if json.Unmarshal(b, &note) == nil && note.Method != "" {
			select { // a test that takes none gets no answers either, once there are too many
			case c.notes <- note:
			case <-c.done:
			}
			continue
		}
		var r api.Response
		if err := json.Unmarshal(b, &r); err != nil {
			c.t.Errorf("answer %.100q: %v", b, err)
		}
		c.mu.Lock()
		c.answers[string(r.ID)] <- r
		c.mu.Unlock()
	}
}

func (c *client) send(v any) {
	b, err := json.Marshal(v)
	if err == nil {
		c.writing.Lock()
		err = link.WriteMessage(c.conn, b)
		c.writing.Unlock()
	}
	if err != nil {
		c.t.Error(err)
	}
}

func (c *client) note(method string, p api.StreamParams) {
	b, _ := json.Marshal(p)
	c.send(api.Request{JSONRPC: "2.0", Method: method, Params: b})
}

// start sends a call; the answer comes through the channel.
func (c *client) start(method, params string) chan api.Response {
	c.mu.Lock()
	c.nextID++
	id := fmt.Sprint(c.nextID)
	answer := make(chan api.Response, 1)
	c.answers[id] = answer
	c.mu.Unlock()
	c.send(api.Request{JSONRPC: "2.0", ID: json.RawMessage(id), Method: method, Params: json.RawMessage(params)})
	return answer
}

func (c *client) finish(answer chan api.Response) (json.RawMessage, error) {
	select {
	case r := <-answer:
		if r.Error != nil {
			return nil, r.Error
		}
		var result api.Result
		if err := json.Unmarshal(r.Result, &result); err != nil {
			return nil, err
		}
		if result.Error != nil {
			return nil, result.Error
		}
		return result.OK, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("no answer in %v", patience)
	}
}

func (c *client) call(method, params string) (string, error) {
	ok, err := c.finish(c.start(method, params))
	return string(ok), err
}

// want calls and checks the result's JSON.
func (c *client) want(method, params, want string) {
	c.t.Helper()
	if got, err := c.call(method, params); err != nil || got != want {
		c.t.Errorf("%s(%s) = %s, %v, want %s", method, params, got, err, want)
	}
}

// fails calls and checks the error.
func (c *client) fails(method, params, class, code string) {
	c.t.Helper()
	_, err := c.call(method, params)
	wantError(c.t, err, class, code)
}

func TestMethodsOverRPC(t *testing.T) {
	c := connect(t, 0)
	c.want("writeTextFile", `{"path":"f","content":"hello","options":{"mode":420}}`, "null")
	c.want("readTextFile", `{"path":"f"}`, `"hello"`)
	c.want("writeFile", `{"path":"f","content":"AQI="}`, "null")
	c.want("readFile", `{"path":"f"}`, `"AQI="`)
	c.want("mkdir", `{"path":"d/e","options":{"recursive":true}}`, "null")
	c.want("symlink", `{"target":"f","path":"l"}`, "null")
	c.want("readLink", `{"path":"l"}`, `"f"`)
	c.want("realPath", `{"path":"l"}`, `"`+c.home+`/f"`)
	c.want("link", `{"target":"f","path":"h"}`, "null")
	c.want("rename", `{"oldPath":"h","newPath":"d/h"}`, "null")
	c.want("copyFile", `{"fromPath":"f","toPath":"d/e/g"}`, "null")
	c.want("chmod", `{"path":"f","mode":384}`, "null")
	c.want("chown", `{"path":"f","uid":null,"gid":null}`, "null")
	c.want("utime", `{"path":"f","atime":"2024-01-01T00:00:00.000Z","mtime":1704067200.5}`, "null")
	c.want("truncate", `{"name":"f","length":1}`, "null")
	c.want("readDir", `{"path":"d/e"}`, `[{"name":"g","isFile":true,"isDirectory":false,"isSymlink":false}]`)
	c.want("remove", `{"path":"d","options":{"recursive":true}}`, "null")
	c.want("create", `{"path":"n"}`, `{"fileHandleId":1}`)
	c.want("fileWrite", `{"fileHandleId":1,"data":"AQID"}`, `{"bytesWritten":3}`)
	c.want("fileSeek", `{"fileHandleId":1,"offset":"1","whence":0}`, `{"position":1}`)
	c.want("fileRead", `{"fileHandleId":1,"length":100}`, `{"data":"AgM="}`)
	c.want("fileRead", `{"fileHandleId":1,"length":100}`, `{"data":null}`)
	c.want("fileTruncate", `{"fileHandleId":1,"size":2}`, "null")
	c.want("fileUtime", `{"fileHandleId":1,"atime":1,"mtime":1}`, "null")
	c.want("fileLock", `{"fileHandleId":1,"exclusive":true}`, "null")
	c.want("fileUnlock", `{"fileHandleId":1}`, "null")
	c.want("fileSync", `{"fileHandleId":1}`, "null")
	c.want("fileSyncData", `{"fileHandleId":1}`, "null")
	c.want("fileClose", `{"fileHandleId":1}`, "null")
	c.want("open", `{"path":"n"}`, `{"fileHandleId":2}`)
	for _, method := range []string{"stat", "lstat"} {
		got, err := c.call(method, `{"path":"f"}`)
		if err != nil || !strings.Contains(got, `"mtime":"2024-01-01T00:00:00.`) && !strings.Contains(got, `"size":1`) {
			t.Errorf("%s: %s, %v", method, got, err)
		}
	}
	for _, method := range []string{"makeTempDir", "makeTempFile"} {
		if got, err := c.call(method, `{"options":{"prefix":"x"}}`); err != nil || !strings.HasPrefix(got, `"`+c.home+`/x`) {
			t.Errorf("%s: %s, %v", method, got, err)
		}
	}
	mask, err := c.call("umask", `{}`)
	must(t, err)
	c.want("umask", `{"mask":`+mask+`}`, mask)
	if got, err := c.call("fileStat", `{"fileHandleId":2}`); err != nil || !strings.Contains(got, `"size":2`) {
		t.Errorf("fileStat: %s, %v", got, err)
	}
}

func TestErrorsOverRPC(t *testing.T) {
	c := connect(t, 4096)
	put(t, c.home, "big", strings.Repeat("x", 10_000))
	c.fails("readFile", `{"path":"nope"}`, "NotFound", "ENOENT")
	c.fails("readFile", `{"path":"big"}`, "RangeError", codeTooLarge)
	c.fails("readTextFile", `{"path":"big"}`, "RangeError", codeTooLarge)
	c.fails("fileClose", `{"fileHandleId":7}`, "BadResource", "")
	c.fails("walk", `{"path":"nope"}`, "NotFound", "ENOENT")
	c.fails("walk", `{"path":".","match":[{"source":"(","flags":""}]}`, "SyntaxError", codeBadPattern)
	c.fails("expandGlob", `{"glob":"[z-a]"}`, "SyntaxError", codeBadPattern)
	c.want("open", `{"path":"big"}`, `{"fileHandleId":1}`)
	if got, err := c.call("fileRead", `{"fileHandleId":1,"length":10000}`); err != nil || len(got) > 4096 || len(got) < 2000 {
		t.Errorf("fileRead within the client's limit: %d bytes, %v", len(got), err)
	}
}

// collect gathers the chunks of a stream up to its end.
func (c *client) collect(id int64) (chunks []string, failure *api.RemoteError) {
	c.t.Helper()
	for {
		select {
		case n := <-c.notes:
			var p api.StreamParams
			must(c.t, json.Unmarshal(n.Params, &p))
			switch {
			case p.StreamID != id:
				c.t.Fatalf("note %s of another stream", n.Method)
			case n.Method == api.NotifyStreamEnqueue:
				chunks = append(chunks, string(p.Data))
			case n.Method == api.NotifyStreamEnd:
				return chunks, nil
			case n.Method == api.NotifyStreamError:
				return chunks, p.Error
			}
		case <-time.After(patience):
			c.t.Fatal("the stream does not end")
		}
	}
}

func (c *client) stream(method, params string) int64 {
	c.t.Helper()
	got, err := c.call(method, params)
	must(c.t, err)
	var r api.StreamResult
	must(c.t, json.Unmarshal([]byte(got), &r))
	return r.StreamID
}

func TestWalkOverRPC(t *testing.T) {
	c := connect(t, 0)
	put(t, c.home, "d/a.ts", "")
	put(t, c.home, "d/b", "")
	chunks, failure := c.collect(c.stream("walk", `{"path":"d","options":{"exts":["ts"]}}`))
	if want := []string{`{"path":"d/a.ts","name":"a.ts","isFile":true,"isDirectory":false,"isSymlink":false}`}; failure != nil || !slices.Equal(chunks, want) {
		t.Errorf("walk: %v, %v", chunks, failure)
	}
	chunks, failure = c.collect(c.stream("expandGlob", `{"glob":"d/*","exclude":["**/*.ts"]}`))
	if failure != nil || len(chunks) != 1 || !strings.Contains(chunks[0], `/d/b"`) {
		t.Errorf("expandGlob: %v, %v", chunks, failure)
	}
	chunks, failure = c.collect(c.stream("walk", `{"path":"d/b"}`))
	if failure == nil || failure.ConstructorName != "NotADirectory" || len(chunks) != 1 {
		t.Errorf("walk of a file: %v, %v", chunks, failure)
	}
}

func TestStreamedWriteOverRPC(t *testing.T) {
	c := connect(t, 0)
	answer := c.start("writeFile", `{"path":"f","contentStreamId":5}`)
	c.note(api.NotifyStreamStart, api.StreamParams{StreamID: 5})
	c.note(api.NotifyStreamEnqueue, api.StreamParams{StreamID: 5, Data: api.Bytes("one ")})
	c.note(api.NotifyStreamEnqueue, api.StreamParams{StreamID: 5, Data: api.Bytes("two")})
	c.note(api.NotifyStreamEnd, api.StreamParams{StreamID: 5})
	_, err := c.finish(answer)
	must(t, err)
	if got := get(t, c.home+"/f"); got != "one two" {
		t.Errorf("file %q", got)
	}

	answer = c.start("writeFile", `{"path":"no/dir","contentStreamId":6}`)
	_, err = c.finish(answer)
	wantError(t, err, "NotFound", "ENOENT")
	if n := <-c.notes; n.Method != api.NotifyStreamCancel {
		t.Errorf("the failed write's stream got %s", n.Method)
	}

	answer = c.start("writeTextFile", `{"path":"g","contentStreamId":7,"abortId":1}`)
	c.note(api.NotifyStreamEnqueue, api.StreamParams{StreamID: 7, Data: api.Bytes("part")})
	c.want("abort", `{"abortId":1}`, "null")
	if _, err = c.finish(answer); err == nil || !strings.Contains(err.Error(), "aborted") {
		t.Errorf("aborted write: %v", err)
	}
}

func TestAbortedReadOverRPC(t *testing.T) {
	c := connect(t, 0)
	must(t, unix.Mkfifo(c.home+"/p", 0o600))
	answer := c.start("readFile", `{"path":"p","abortId":9}`)
	c.want("abort", `{"abortId":9}`, "null")
	if _, err := c.finish(answer); err == nil || !strings.Contains(err.Error(), "aborted") {
		t.Errorf("aborted read: %v", err)
	}
}

// A client that vanishes leaves nothing behind: no open file, no walk, no
// waiting lock.
func TestDisconnect(t *testing.T) {
	before := openFiles(t)
	c := connect(t, 0)
	for i := range 2000 {
		put(t, c.home, fmt.Sprint("d/", i), "")
	}
	put(t, c.home, "f", "")
	must(t, unix.Mkfifo(c.home+"/p", 0o600))
	_, err := c.call("open", `{"path":"f"}`)
	must(t, err)
	_, err = c.call("open", `{"path":"f"}`)
	must(t, err)
	c.want("fileLock", `{"fileHandleId":1,"exclusive":true}`, "null")
	c.start("fileLock", `{"fileHandleId":2,"exclusive":true}`)
	c.start("readFile", `{"path":"p"}`)
	c.start("writeFile", `{"path":"g","contentStreamId":3}`)
	// The walks come last: nobody takes what they find, so that after the first
	// thousands nothing else arrives.
	for range 20 {
		c.start("walk", `{"path":"d"}`)
	}
	<-c.notes
	c.close()
	for deadline := time.Now().Add(patience); openFiles(t) > before; {
		if time.Now().After(deadline) {
			t.Fatalf("%d files open, %d before", openFiles(t), before)
		}
		select { // the walks end by themselves
		case <-time.After(time.Millisecond):
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	r, w, err := os.Pipe() // so that the runtime's own, for polling, are open
	must(t, err)
	must(t, errors.Join(r.Close(), w.Close()))
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

var _ content = (*rpc.InStream)(nil)
var _ io.WriterTo = (*rpc.InStream)(nil)
