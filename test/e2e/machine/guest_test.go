//go:build e2e

package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// patience bounds every wait.
const patience = 5 * time.Minute

// memoryBytes is what the guests of these tests have.
const memoryBytes = 768 << 20

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// guest is a machine and a client of its agent.
type guest struct {
	m   machine.Machine
	rpc net.Conn
}

// spec is of a machine whose card is given to attach.
func spec(t *testing.T, attach func(machine.NIC) error) machine.Spec {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return machine.Spec{
		ID: "saved-" + time.Now().Format("150405.000000000"), Dir: dir, Hostname: "saved",
		Image: machine.Image{File: need(t, "ATOLL_TEST_IMAGE")}, Agent: filepath.Join(need(t, "ATOLL_TEST_BIN"), "atoll-agent"),
		MemoryBytes: memoryBytes, CPUs: 2, DiskBytes: 2 << 30, Network: network(), AttachNIC: attach,
	}
}

// begin opens the first session with a machine.
func begin(t *testing.T, m machine.Machine) *guest {
	t.Helper()
	config := link.Config{
		Generation: 1, Hostname: "saved", MemoryBytes: memoryBytes, TimeUnixNs: time.Now().UnixNano(),
		UserID: 1000, GroupID: 1000, User: "app", Home: "/home/app", MaxMessage: 1 << 20,
	}
	if booter, ok := m.(machine.Booter); ok {
		boot := booter.Boot()
		config.Boot = &boot
	}
	return session(t, m, 1, config)
}

// goOn opens the session with a restored machine.
func goOn(t *testing.T, m machine.Machine, generation uint32) *guest {
	t.Helper()
	return session(t, m, generation, struct {
		Resume link.Resume `json:"resume"`
	}{link.Resume{Generation: generation, TimeUnixNs: time.Now().UnixNano(), CutNetwork: true}})
}

func session(t *testing.T, m machine.Machine, generation uint32, first any) *guest {
	t.Helper()
	t.Cleanup(func() { _ = m.Destroy(context.Background()) })
	mux, err := link.Open(deadline(t), m.Link(), generation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mux.Close() })
	control, err := mux.Dial(deadline(t), link.KindControl, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	var ready link.Ready
	if err := link.SendControl(control, first); err != nil {
		t.Fatal(err)
	}
	if err := link.ReceiveControl(control, &ready); err != nil || ready.Error != "" {
		t.Fatalf("the agent isn't ready: %v %s", err, ready.Error)
	}
	if err := m.(machine.Settler).Settle(); err != nil {
		t.Fatal(err)
	}
	conn, err := mux.Dial(deadline(t), link.KindRPC, link.RPCHeader{MaxMessage: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return &guest{m: m, rpc: conn}
}

// call calls a method of the agent, one at a time.
func (g *guest) call(t *testing.T, method string, params, out any) {
	t.Helper()
	if err := g.tryCall(method, params, out); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

func (g *guest) tryCall(method string, params, out any) error {
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	_ = g.rpc.SetDeadline(time.Now().Add(patience))
	if err := link.WriteMessage(g.rpc, raw); err != nil {
		return err
	}
	frames := link.NewFrameReader(g.rpc)
	for {
		raw, err := frames.ReadMessage(4 << 20)
		if err != nil {
			return err
		}
		var answer struct {
			ID     json.RawMessage `json:"id"`
			Result api.Result      `json:"result"`
			Error  *api.RPCError   `json:"error"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return err
		}
		switch {
		case answer.ID == nil:
			continue // a notification
		case answer.Error != nil:
			return fmt.Errorf("%s", answer.Error.Message)
		case answer.Result.Error != nil:
			return answer.Result.Error
		case out == nil:
			return nil
		}
		return json.Unmarshal(answer.Result.OK, out)
	}
}

// spawn starts a program of which nobody sees the output.
func (g *guest) spawn(t *testing.T, command string, args ...string) int {
	t.Helper()
	var p api.SpawnResult
	g.call(t, "spawn", api.SpawnParams{Command: command, Args: args, ProcessOptions: api.ProcessOptions{Stdout: "null", Stderr: "null"}}, &p)
	return p.PID
}

// run runs a shell script and returns its exit code.
func (g *guest) run(t *testing.T, script string) int {
	t.Helper()
	var status api.ProcessStatus
	g.call(t, "processWait", api.PIDParams{PID: g.spawn(t, "sh", "-c", script)}, &status)
	return status.Code
}

// do runs a shell script that must succeed.
func (g *guest) do(t *testing.T, script string) {
	t.Helper()
	if code := g.run(t, script); code != 0 {
		t.Fatalf("exit code %d of: %s", code, script)
	}
}

// await waits for a shell script to succeed.
func (g *guest) await(t *testing.T, condition string) {
	t.Helper()
	g.do(t, fmt.Sprintf("until %s; do sleep 0.1; done", condition))
}

// read returns a file's text, without the space around it.
func (g *guest) read(t *testing.T, path string) (text string) {
	t.Helper()
	g.call(t, "readTextFile", api.ReadFileParams{Path: path}, &text)
	return text
}

func (g *guest) write(t *testing.T, path, text string) {
	t.Helper()
	g.call(t, "writeTextFile", map[string]any{"path": path, "content": text}, nil)
}
