package oom

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// ProcFS is the System of a mounted /proc.
type ProcFS struct {
	root    string
	meminfo *os.File // kept open: opening costs more than reading
	buf     [4 << 10]byte
}

// OpenProcFS opens the /proc file system that is mounted at root.
func OpenProcFS(root string) (*ProcFS, error) {
	f, err := os.Open(filepath.Join(root, "meminfo"))
	if err != nil {
		return nil, err
	}
	return &ProcFS{root: root, meminfo: f}, nil
}

// Close frees the file.
func (p *ProcFS) Close() error { return p.meminfo.Close() }

// Usage reads /proc/meminfo.
func (p *ProcFS) Usage() (Usage, error) {
	n, err := p.meminfo.ReadAt(p.buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Usage{}, fmt.Errorf("read meminfo: %w", err)
	}
	var u Usage
	var ok1, ok2 bool
	u.Total, ok1 = kilobytes(p.buf[:n], "MemTotal:")
	u.Available, ok2 = kilobytes(p.buf[:n], "MemAvailable:")
	if !ok1 || !ok2 {
		return Usage{}, errors.New("meminfo has no MemTotal and MemAvailable")
	}
	return u, nil
}

// kilobytes finds "name: 123 kB" and returns it in bytes.
func kilobytes(table []byte, name string) (int64, bool) {
	_, rest, ok := bytes.Cut(table, []byte(name))
	if !ok {
		return 0, false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(fields[0]), 10, 53)
	return n << 10, err == nil && n >= 0
}

// Largest reads every process's statm. A process that ends meanwhile is left
// out.
func (p *ProcFS) Largest() (Process, error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return Process{}, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return Process{}, fmt.Errorf("list processes: %w", err)
	}
	var largest Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		if rss := p.rss(name); rss > largest.RSS {
			largest = Process{PID: pid, RSS: rss}
		}
	}
	return largest, nil
}

// rss is a process's resident memory in bytes, 0 when it is unknown.
func (p *ProcFS) rss(pid string) int64 {
	statm, err := os.ReadFile(filepath.Join(p.root, pid, "statm"))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 40)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
