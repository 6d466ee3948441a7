package deno

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

const (
	tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	// Port 8000 on every address, by inode 77; port 9000 on loopback, by 55;
	// an established connection.
	tcpTable = tcpHeader +
		"   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 55 1 0000000000000000 100 0 0 10 0\n" +
		"   2: 0100007F:2328 0100007F:2329 01 00000000:00000000 00:00000000 00000000  1000        0 56 1 0000000000000000 100 0 0 10 0\n"
	// Port 80 on every address, by inode 99.
	tcp6Table = tcpHeader +
		"   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0  1000 0 99 1 0\n"
)

// fakeProc is a /proc whose links are files with the target as content.
type fakeProc struct{ fstest.MapFS }

func (p fakeProc) ReadLink(name string) (string, error) {
	b, err := fs.ReadFile(p.MapFS, name)
	return string(b), err
}

func newProc(files map[string]string) fakeProc {
	p := fakeProc{fstest.MapFS{}}
	for name, text := range files {
		p.MapFS[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return p
}

func TestEndpoint(t *testing.T) {
	proc := newProc(map[string]string{
		"net/tcp": tcpTable, "net/tcp6": tcp6Table,
		"7/stat": "7 (deno) S 1 7 7 0", "7/fd/3": "socket:[77]", "7/fd/1": "pipe:[3]", "7/fd/4": "socket:[55]",
		"8/stat": "8 (sh -c (x) ) S 1 8 8 0", "8/fd/0": "/dev/null",
		"9/stat": "9 (deno) S 8 8 8 0", "9/fd/5": "socket:[99]",
		"10/stat": "10 (true) S 1 8 8 0",
	})
	for _, tc := range []struct {
		pid  int
		want string
	}{
		{7, "127.0.0.1:9000"}, // the older of its two
		{8, "[::1]:80"},       // its child's
		{9, "[::1]:80"},
		{10, ""},
		{11, ""}, // gone
	} {
		got, ok := endpoint(proc, tc.pid)
		if ok != (tc.want != "") || (ok && got != netip.MustParseAddrPort(tc.want)) {
			t.Errorf("endpoint(%d) = %v, %v, want %s", tc.pid, got, ok, tc.want)
		}
	}
}

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"0000000000000000FFFF00000100007F:0001": "127.0.0.1:1",
		"B80D0120000000000000000001000000:01BB": "[2001:db8::1]:443",
	} {
		if got, err := parseAddr(in); err != nil || got.String() != want {
			t.Errorf("parseAddr(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":", "0100007F", "0100007F:FFFFF", "01007F:1F90", "xx00007F:1F90"} {
		if got, err := parseAddr(in); err == nil {
			t.Errorf("parseAddr(%q) = %v", in, got)
		}
	}
}

func FuzzSockets(f *testing.F) {
	f.Add(tcpTable)
	f.Add(tcp6Table)
	f.Add("7 (a b) c) S 1 2")
	f.Fuzz(func(t *testing.T, in string) {
		for _, l := range parseSockets(strings.NewReader(in)) {
			if !l.addr.IsValid() || l.inode == 0 {
				t.Errorf("unusable listener %+v", l)
			}
		}
		parseParent([]byte(in))
	})
}

// lateProc has no sockets before a certain time.
type lateProc struct {
	fakeProc
	from time.Time
}

func (p lateProc) Open(name string) (fs.File, error) {
	if strings.HasPrefix(name, "net/") && time.Now().Before(p.from) {
		return nil, fs.ErrNotExist
	}
	return p.fakeProc.Open(name)
}

func TestAwaitEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		proc := lateProc{newProc(map[string]string{
			"net/tcp": tcpTable, "7/stat": "7 (deno) S 1 7 7 0", "7/fd/3": "socket:[55]",
		}), start.Add(time.Minute)}
		addr, ok, err := awaitEndpoint(t.Context(), proc, 7, nil)
		if !ok || err != nil || addr.Port() != 9000 {
			t.Errorf("got %v %v %v", addr, ok, err)
		}
		if late := time.Since(start) - time.Minute; late > slowestYet {
			t.Errorf("noticed %v late", late)
		}
	})
}

func TestAwaitEndpointEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exited := make(chan struct{})
		time.AfterFunc(time.Hour, func() { close(exited) })
		if _, ok, err := awaitEndpoint(t.Context(), newProc(nil), 7, exited); ok || err != nil {
			t.Errorf("after exit: %v %v", ok, err)
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Hour, func() { cancel(gone) })
		if _, _, err := awaitEndpoint(ctx, newProc(nil), 7, nil); !errors.Is(err, gone) {
			t.Errorf("after cancel: %v", err)
		}
	})
}

// TestOwnSocket looks for a socket of the test itself in the real /proc.
func TestOwnSocket(t *testing.T) {
	l := listenLocal(t)
	addr, ok := endpoint(procDir("/proc"), os.Getpid())
	if !ok || addr.String() != l.Addr().String() {
		t.Errorf("found %v %v, want %v", addr, ok, l.Addr())
	}
}
