package deno

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// procFS is the part of /proc that is read; tests plug in a made-up one.
// Names are relative to /proc.
type procFS interface {
	fs.ReadDirFS
	ReadLink(name string) (string, error)
}

// A listener is one listening TCP socket of the sandbox.
type listener struct {
	addr  netip.AddrPort
	inode uint64
}

// The column numbers of /proc/net/tcp and tcp6, and the state of a listening
// socket (proc_net_tcp.txt in the Linux documentation). gVisor writes the
// same format.
const (
	columnLocal = 1
	columnState = 3
	columnInode = 9
	stateListen = "0A"
)

// maxSockets bounds the lines that are read of one socket table.
const maxSockets = 1 << 16

// listeners returns every listening TCP socket, oldest first.
func listeners(proc procFS) []listener {
	var all []listener
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		f, err := proc.Open(table)
		if err != nil {
			continue // a kernel without IPv6 has no tcp6
		}
		all = append(all, parseSockets(f)...)
		f.Close()
	}
	slices.SortFunc(all, func(a, b listener) int {
		switch {
		case a.inode < b.inode:
			return -1
		case a.inode > b.inode:
			return 1
		}
		return 0
	})
	return all
}

// parseSockets reads the listening sockets of one table.
func parseSockets(r io.Reader) []listener {
	var found []listener
	lines := bufio.NewScanner(io.LimitReader(r, maxSockets*256))
	for n := 0; n < maxSockets && lines.Scan(); n++ {
		if l, ok := parseSocket(lines.Text()); ok {
			found = append(found, l)
		}
	}
	return found
}

func parseSocket(line string) (listener, bool) {
	columns := strings.Fields(line)
	if len(columns) <= columnInode || columns[columnState] != stateListen {
		return listener{}, false
	}
	addr, err := parseAddr(columns[columnLocal])
	if err != nil {
		return listener{}, false
	}
	inode, err := strconv.ParseUint(columns[columnInode], 10, 64)
	return listener{addr, inode}, err == nil && inode != 0
}

// parseAddr reads "0100007F:1F90": 32-bit words in the machine's byte order,
// which is little-endian on all platforms that are supported, and the port.
func parseAddr(s string) (netip.AddrPort, error) {
	ip, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(ip)
	if err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, fmt.Errorf("parse socket address %q", s)
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse socket port %q", s)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// endpoint returns the oldest listening socket of the process, or else of one
// of its descendants, in a form that can be dialled.
func endpoint(proc procFS, pid int) (netip.AddrPort, bool) {
	all := listeners(proc)
	if len(all) == 0 {
		return netip.AddrPort{}, false // by far the most frequent case while waiting
	}
	if addr, ok := ownedBy(all, sockets(proc, pid)); ok {
		return addr, true
	}
	var inodes []uint64
	for _, child := range family(proc, pid)[1:] {
		inodes = append(inodes, sockets(proc, child)...)
	}
	return ownedBy(all, inodes)
}

func ownedBy(all []listener, inodes []uint64) (netip.AddrPort, bool) {
	for _, l := range all {
		if slices.Contains(inodes, l.inode) {
			return dialable(l.addr), true
		}
	}
	return netip.AddrPort{}, false
}

// dialable replaces the unspecified address by loopback.
func dialable(a netip.AddrPort) netip.AddrPort {
	switch a.Addr() {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// sockets lists the inodes of a process's sockets.
func sockets(proc procFS, pid int) []uint64 {
	dir := strconv.Itoa(pid) + "/fd"
	entries, err := proc.ReadDir(dir)
	if err != nil {
		return nil // ended meanwhile
	}
	var inodes []uint64
	for _, e := range entries {
		target, err := proc.ReadLink(dir + "/" + e.Name())
		if err != nil {
			continue
		}
		number, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}

// family lists a process and its descendants, the process first.
func family(proc procFS, pid int) []int {
	entries, err := proc.ReadDir(".")
	if err != nil {
		return []int{pid}
	}
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(proc, child); ok {
			children[parent] = append(children[parent], child)
		}
	}
	found := []int{pid}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
		delete(children, found[i]) // a table read while it changes may hold a cycle
	}
	return found
}

// parentOf reads the parent from /proc/<pid>/stat: the second field after the
// command, which is in parentheses and may contain anything.
func parentOf(proc procFS, pid int) (int, bool) {
	f, err := proc.Open(strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	stat, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return 0, false
	}
	return parseParent(stat)
}

func parseParent(stat []byte) (int, bool) {
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return parent, err == nil
}
