//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/gateway/upstream"
)

const (
	connectionCount = 1000
	connectionBytes = 64 << 10 // each way
)

// connections is the guest's side: it opens all connections, and only when all
// are open sends on each of them and reads the echo. It prints how many had
// all of their own bytes back, and the seconds from the first connect on.
const connections = `
import asyncio, json, sys, time
host, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

async def main():
    began = time.monotonic()
    opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(count)), return_exceptions=True)
    connected = time.monotonic() - began

    async def trip(number, pair):
        if isinstance(pair, BaseException):
            return repr(pair)
        reader, writer = pair
        said = number.to_bytes(4, "big") * (size // 4)
        writer.write(said)
        heard = await reader.readexactly(size)
        writer.close()
        return "" if heard == said else "other bytes came back"

    results = await asyncio.gather(*(trip(*p) for p in enumerate(opened)), return_exceptions=True)
    bad = [str(r) for r in results if r != ""]
    print(json.dumps({"whole": count - len(bad), "connected": connected, "took": time.monotonic() - began, "first": (bad or [""])[0]}))

asyncio.run(main())
`

// connectionsFigure opens many connections at once through one gateway.
func connectionsFigure(ctx context.Context, b *bench) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	go serveEchoes(l)
	reach := upstream.Overrides{Dial: map[string]netip.AddrPort{peerAddr.String(): netip.MustParseAddrPort(l.Addr().String())}}
	w, err := newWorld(ctx, reach, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.close()
	pid, err := w.shim()
	if err != nil {
		return err
	}
	time.Sleep(warmUp)
	memory, err := watchMemory(pid)
	if err != nil {
		return err
	}
	result, err := connectInside(ctx, w.sandbox)
	if err != nil {
		return err
	}
	peak, err := memory.peak()
	if err != nil {
		return err
	}
	time.Sleep(settle)
	after, err := memory.now()
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("%d connections at once, %d KiB each way", connectionCount, connectionBytes>>10),
		fmt.Sprintf("%d whole, %.0f MB carried in %.2f s (all open after %.2f s)", result.Whole, float64(result.Whole*2*connectionBytes)/1e6, result.Took, result.Connected),
		fmt.Sprintf("the shim's RSS: %.1f MiB before, %.1f at its peak, %.1f after", mib(memory.before), mib(peak), mib(after)), "")
	if result.Whole != connectionCount {
		return fmt.Errorf("%d connections were lost, the first by %s", connectionCount-result.Whole, result.First)
	}
	return nil
}

// serveEchoes sends back what each connection says.
func serveEchoes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

type connected struct {
	Whole           int
	Connected, Took float64 // seconds
	First           string  // what the first lost one met
}

func connectInside(ctx context.Context, s *client.Sandbox) (c connected, err error) {
	out, err := s.Output(ctx, "python3", client.SpawnOptions{Args: []string{
		"-c", connections, peerAddr.Addr().String(), strconv.Itoa(int(peerAddr.Port())), strconv.Itoa(connectionCount), strconv.Itoa(connectionBytes),
	}})
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(out.Stdout, &c); err != nil {
		return c, fmt.Errorf("connections: %w: %.500s %.500s", err, out.Stdout, out.Stderr)
	}
	return c, nil
}

// memoryWatch is the resident memory of a process, in bytes.
type memoryWatch struct {
	pid    int
	before int64
}

// watchMemory has the kernel forget the peak so far; see proc_pid_clear_refs(5).
func watchMemory(pid int) (*memoryWatch, error) {
	w := &memoryWatch{pid: pid}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return nil, err
	}
	var err error
	w.before, err = w.now()
	return w, err
}

func (w *memoryWatch) now() (int64, error)  { return w.read("VmRSS:") }
func (w *memoryWatch) peak() (int64, error) { return w.read("VmHWM:") }

func (w *memoryWatch) read(key string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", key, w.pid)
}
