//go:build e2e

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	transferSize = 400 << 20 // bytes
	transferRuns = 5
)

// peerAddr is the address by which guests of the gateway know the listener.
var peerAddr = netip.MustParseAddrPort("93.184.215.77:9000")

// transfer is the guest's side of peer: it prints the seconds of one transfer.
const transfer = `
import socket, struct, sys, time
host, port, way, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
s = socket.create_connection((host, port), 20)
s.sendall(way.encode() + struct.pack(">Q", size))
block = bytearray(1 << 20)
began = time.monotonic()
if way == "d":
    left = size
    while left:
        n = s.recv_into(block)
        if not n:
            raise SystemExit("cut short")
        left -= n
else:
    for _ in range(size >> 20):
        s.sendall(block)
    s.recv(1)
print(time.monotonic() - began)
`

// peer is the host's side of a transfer.
type peer struct{ net.Listener }

func newPeer(addr string) (*peer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &peer{l}
	go p.serve()
	return p, nil
}

func (p *peer) port() string {
	_, port, _ := net.SplitHostPort(p.Addr().String())
	return port
}

func (p *peer) addr() netip.AddrPort { return netip.MustParseAddrPort(p.Addr().String()) }

func (p *peer) serve() {
	for {
		c, err := p.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = answer(c)
		}()
	}
}

func answer(c net.Conn) error {
	var head [9]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint64(head[1:]))
	if head[0] == 'u' {
		// Not through splice(2), which a receiver of bytes would not use.
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, size)}, make([]byte, 1<<20)); err != nil {
			return err
		}
		_, err := c.Write([]byte{'k'})
		return err
	}
	block := make([]byte, 1<<20)
	for ; size > 0; size -= int64(len(block)) {
		if _, err := c.Write(block[:min(size, int64(len(block)))]); err != nil {
			return err
		}
	}
	return nil
}

// transferFigure measures plain TCP through the gateway, beside the same guest
// on runsc's own network over a veth pair.
func transferFigure(ctx context.Context, b *bench) error {
	p, err := newPeer("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer p.Close()
	w, err := newWorld(ctx, upstream.Overrides{Dial: map[string]netip.AddrPort{peerAddr.String(): p.addr()}}, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.close()
	v, err := newVeth(ctx)
	if err != nil {
		return err
	}
	defer v.remove()
	bare, err := newBareNetwork(b, v)
	if err != nil {
		return err
	}
	defer bare.remove()
	for _, way := range []struct{ flag, name string }{{"d", "download"}, {"u", "upload"}} {
		var ours, theirs []time.Duration
		for range transferRuns {
			took, err := transferInside(ctx, w.sandbox, peerAddr, way.flag)
			if err != nil {
				return err
			}
			ours = append(ours, took)
			if err := v.address(ctx); err != nil {
				return err
			}
			if took, err = bare.transfer(ctx, way.flag); err != nil {
				return err
			}
			theirs = append(theirs, took)
		}
		mine, other := percentile(sorted(ours), 50), percentile(sorted(theirs), 50)
		b.add("plain "+way.name+", one connection", rate(transferSize, mine),
			"runsc's own network over veth: "+rate(transferSize, other), fmt.Sprintf("%.2f (speed)", float64(other)/float64(mine)))
	}
	return nil
}

func transferInside(ctx context.Context, s *client.Sandbox, to netip.AddrPort, way string) (time.Duration, error) {
	out, err := s.Output(ctx, "python3", client.SpawnOptions{Args: []string{
		"-c", transfer, to.Addr().String(), strconv.Itoa(int(to.Port())), way, strconv.Itoa(transferSize),
	}})
	if err != nil {
		return 0, err
	}
	return parseSeconds(string(out.Stdout), string(out.Stderr))
}

func parseSeconds(stdout, stderr string) (time.Duration, error) {
	lines := strings.Fields(stdout)
	if len(lines) == 0 {
		return 0, fmt.Errorf("transfer: %.500s", stderr)
	}
	f, err := strconv.ParseFloat(lines[len(lines)-1], 64)
	if err != nil {
		return 0, fmt.Errorf("transfer: %.500s %.500s", stdout, stderr)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// world is a server whose internet is only what is given, and a sandbox on it.
type world struct {
	dir     string
	server  *harness.Server
	sandbox *client.Sandbox
}

// newWorld starts a server that reaches nothing but what the overrides lead
// elsewhere.
func newWorld(ctx context.Context, reach upstream.Overrides, o client.CreateOptions, flags ...string) (_ *world, err error) {
	w := new(world)
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "atoll-bench-"); err != nil {
		return nil, err
	}
	reach.Only = true
	raw, err := json.Marshal(reach)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(w.dir, "overrides.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	// No spares: the sandbox's processes are the only ones.
	flags = append([]string{"--host-overrides", file, "--log-level", "warn", "--spares", "0"}, flags...)
	if w.server, err = harness.Start(ctx, flags...); err != nil {
		return nil, err
	}
	c, err := client.New(client.Options{Endpoint: w.server.URL, Token: w.server.Token})
	if err != nil {
		return nil, err
	}
	w.sandbox, err = c.Sandboxes.Create(ctx, o)
	return w, err
}

// shim is the process id of the sandbox's shim.
func (w *world) shim() (int, error) {
	for _, p := range w.server.Processes() {
		if p.Name == "atoll-shim" {
			return p.PID, nil
		}
	}
	return 0, errors.New("no shim is running")
}

func (w *world) close() {
	if w.sandbox != nil {
		_ = w.sandbox.Close()
	}
	if w.server != nil {
		_ = w.server.Close()
	}
	_ = os.RemoveAll(w.dir)
}

// veth is a network namespace with one end of a pair of cards; the other end
// is the host's.
type veth struct {
	name string
	peer *peer
}

const vethHost, vethGuest = "10.213.77.1", "10.213.77.2"

func newVeth(ctx context.Context) (_ *veth, err error) {
	v := &veth{name: fmt.Sprintf("atollb%d", os.Getpid()%10000)}
	defer func() {
		if err != nil {
			v.remove()
		}
	}()
	for _, args := range [][]string{
		{"netns", "add", v.name},
		{"link", "add", v.name + "h", "type", "veth", "peer", "name", "eth0", "netns", v.name},
		{"addr", "add", vethHost + "/30", "dev", v.name + "h"},
		{"link", "set", v.name + "h", "up"},
		{"-n", v.name, "link", "set", "lo", "up"},
		{"-n", v.name, "link", "set", "eth0", "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	v.peer, err = newPeer(vethHost + ":0")
	return v, err
}

// address gives the guest's card its address, which runsc takes away from it
// each time.
func (v *veth) address(ctx context.Context) error {
	return ip(ctx, "-n", v.name, "addr", "replace", vethGuest+"/30", "dev", "eth0")
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (v *veth) remove() {
	if v.peer != nil {
		_ = v.peer.Close()
	}
	_ = exec.Command("ip", "link", "del", v.name+"h").Run()
	_ = exec.Command("ip", "netns", "del", v.name).Run()
}
