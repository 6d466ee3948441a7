// Package cgroup makes, reads and removes the control group of one machine or
// of its shim, on hosts with cgroup v2 and on those with v1 (also the hybrid of
// both).
//
// A group lives directly below the group "atoll" at the root of each
// hierarchy. Only memory, cpu and pids are limited; on v1, runsc makes groups
// of the same name in the other hierarchies, and Remove takes those away too.
// A Group holds no open files: it is found again by its name alone.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// Parent is the group that holds all machines' groups.
const Parent = "atoll"

// ShimName names the group of the shim that owns the machine whose group has
// this name. It stands beside that one: on v2 a group with processes has no
// limited groups below it.
func ShimName(machine string) string { return machine + ".shim" }

// cpuPeriod is the accounting period of the CPU limit, in microseconds.
const cpuPeriod = 100_000

// Limits bound what the processes of a group use together. Zero is no limit.
type Limits struct {
	MemoryBytes int64
	CPUs        int
	PIDs        int64
}

// Group is the control group of one machine.
type Group struct {
	root string // Root, or a test's stand-in
	name string // relative to a hierarchy: "atoll/sbx_…"
	v2   bool
}

// Open names a group without touching it.
func Open(name string) *Group { return open(Root, name, onlyV2(Root)) }

func open(root, name string, v2 bool) *Group {
	return &Group{root: root, name: filepath.Join(Parent, name), v2: v2}
}

// Version says whether the host has cgroup "v1" (or the hybrid) or "v2".
func Version() string {
	if onlyV2(Root) {
		return "v2"
	}
	return "v1"
}

func onlyV2(root string) bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// v1Limited are the v1 hierarchies in which a limit is set.
var v1Limited = []string{"memory", "cpu", "pids"}

// v1Counter is the v1 hierarchy that counts processor time. Not every host has
// it.
const v1Counter = "cpuacct"

// Path is the group's path as runtimes want it: relative to a hierarchy's
// root, with a leading slash.
func (g *Group) Path() string { return "/" + g.name }

// Create makes the group with its limits. On failure nothing is left.
func (g *Group) Create(l Limits) (err error) {
	defer func() {
		if err != nil {
			_ = g.rmdirs()
		}
	}()
	if g.v2 {
		return g.createV2(l)
	}
	return g.createV1(l)
}

func (g *Group) createV2(l Limits) error {
	for _, dir := range []string{g.root, filepath.Join(g.root, Parent)} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make control group: %w", err)
		}
		if err := write(dir, "cgroup.subtree_control", "+memory +cpu +pids"); err != nil {
			return fmt.Errorf("delegate controllers: %w", err)
		}
	}
	dir := filepath.Join(g.root, g.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make control group: %w", err)
	}
	return writeAll(dir, v2Settings(l))
}

func (g *Group) createV1(l Limits) error {
	for _, controller := range v1Limited {
		dir := filepath.Join(g.root, controller, g.name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		if err := writeAll(dir, v1Settings(controller, l)); err != nil {
			return err
		}
	}
	if g.counts() {
		if err := os.MkdirAll(filepath.Join(g.root, v1Counter, g.name), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return nil
}

// counts reports whether the host counts processor time on v1.
func (g *Group) counts() bool {
	_, err := os.Stat(filepath.Join(g.root, v1Counter))
	return err == nil
}

// setting is one file of a group and what to write to it.
type setting struct {
	file, value string
	optional    bool // the kernel may be built without it
}

func v2Settings(l Limits) []setting {
	var out []setting
	if l.MemoryBytes > 0 {
		out = append(out,
			setting{file: "memory.max", value: strconv.FormatInt(l.MemoryBytes, 10)},
			setting{file: "memory.swap.max", value: "0", optional: true},
			setting{file: "memory.oom.group", value: "1", optional: true})
	}
	if l.CPUs > 0 {
		out = append(out, setting{file: "cpu.max", value: fmt.Sprintf("%d %d", l.CPUs*cpuPeriod, cpuPeriod)})
	}
	if l.PIDs > 0 {
		out = append(out, setting{file: "pids.max", value: strconv.FormatInt(l.PIDs, 10)})
	}
	return out
}

func v1Settings(controller string, l Limits) []setting {
	switch {
	case controller == "memory" && l.MemoryBytes > 0:
		limit := strconv.FormatInt(l.MemoryBytes, 10)
		return []setting{
			{file: "memory.limit_in_bytes", value: limit},
			{file: "memory.memsw.limit_in_bytes", value: limit, optional: true},
		}
	case controller == "cpu" && l.CPUs > 0:
		return []setting{
			{file: "cpu.cfs_period_us", value: strconv.Itoa(cpuPeriod)},
			{file: "cpu.cfs_quota_us", value: strconv.Itoa(l.CPUs * cpuPeriod)},
		}
	case controller == "pids" && l.PIDs > 0:
		return []setting{{file: "pids.max", value: strconv.FormatInt(l.PIDs, 10)}}
	}
	return nil
}

func writeAll(dir string, settings []setting) error {
	for _, s := range settings {
		err := write(dir, s.file, s.value)
		if err != nil && !(s.optional && errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("set %s: %w", s.file, err)
		}
	}
	return nil
}

func write(dir, file, value string) error {
	// Without O_CREATE: a controller that is missing must not become a file.
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Enter moves a process, all its threads and what it starts from then on into
// the group.
func (g *Group) Enter(pid int) error {
	dirs := []string{filepath.Join(g.root, g.name)}
	if !g.v2 {
		dirs = dirs[:0]
		controllers := v1Limited
		if g.counts() {
			controllers = append(controllers[:len(controllers):len(controllers)], v1Counter)
		}
		for _, controller := range controllers {
			dirs = append(dirs, filepath.Join(g.root, controller, g.name))
		}
	}
	for _, dir := range dirs {
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// dir is where a controller's files of this group are.
func (g *Group) dir(controller string) string {
	if g.v2 {
		return filepath.Join(g.root, g.name)
	}
	return filepath.Join(g.root, controller, g.name)
}

// OOMKills counts the processes of the group that the kernel ended because
// the group reached its memory limit. A group that is gone counts zero.
func (g *Group) OOMKills() int64 {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	return readKey(filepath.Join(g.dir("memory"), file), "oom_kill")
}

// MemoryBytes is what the group uses now, page cache included.
func (g *Group) MemoryBytes() (int64, error) {
	file := "memory.usage_in_bytes"
	if g.v2 {
		file = "memory.current"
	}
	return readInt(filepath.Join(g.dir("memory"), file))
}

// SharedBytes is what is charged to the group for memory files that its
// processes filled, for as long as anybody has them.
func (g *Group) SharedBytes() int64 {
	return readKey(filepath.Join(g.dir("memory"), "memory.stat"), "shmem")
}

// PrivateBytes is what is charged to the group for the private memory of its
// processes.
func (g *Group) PrivateBytes() int64 {
	key := "rss"
	if g.v2 {
		key = "anon"
	}
	return readKey(filepath.Join(g.dir("memory"), "memory.stat"), key)
}

// RaiseMemory raises the group's memory limit to so many bytes. A higher one
// stays.
func (g *Group) RaiseMemory(bytes int64) error {
	settings, limit := v2Settings(Limits{MemoryBytes: bytes}), "memory.max"
	if !g.v2 {
		settings, limit = v1Settings("memory", Limits{MemoryBytes: bytes}), "memory.limit_in_bytes"
		slices.Reverse(settings) // that with swap is never below that without
	}
	now, err := readInt(filepath.Join(g.dir("memory"), limit))
	if err != nil {
		return fmt.Errorf("read memory limit: %w", err)
	}
	if now >= bytes {
		return nil
	}
	return writeAll(g.dir("memory"), settings)
}

// CPUTime is what the group has used since it was made. On v1 it is zero
// where the cpuacct hierarchy is not mounted.
func (g *Group) CPUTime() time.Duration {
	if g.v2 {
		return time.Duration(readKey(filepath.Join(g.dir("cpu"), "cpu.stat"), "usage_usec")) * time.Microsecond
	}
	ns, _ := readInt(filepath.Join(g.dir("cpuacct"), "cpuacct.usage"))
	return time.Duration(ns)
}

// PIDs lists the processes in the group.
func (g *Group) PIDs() []int {
	raw, err := os.ReadFile(filepath.Join(g.dir("memory"), "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Threads counts the processes and threads in the group.
func (g *Group) Threads() int {
	n, _ := readInt(filepath.Join(g.dir("pids"), "pids.current"))
	return int(n)
}

// retryInterval is how long Remove waits between two looks at a group whose
// processes are still dying: the kernel offers no notification for that on v1.
const retryInterval = 2 * time.Millisecond

// Remove kills whatever is in the group and removes it everywhere. A group
// that does not exist is removed already.
func (g *Group) Remove(ctx context.Context) error {
	for {
		for _, pid := range g.PIDs() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		err := g.rmdirs()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove control group %s: %w", g.name, err)
		case <-time.After(retryInterval):
		}
	}
}

func (g *Group) rmdirs() error {
	dirs := []string{filepath.Join(g.root, g.name)}
	if !g.v2 {
		// Every hierarchy is a directory below the root; the group may be in any.
		dirs, _ = filepath.Glob(filepath.Join(g.root, "*", g.name))
	}
	var failed error
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("remove %s: %w", dir, err))
		}
	}
	return failed
}

// RemoveParent removes the parent group wherever it is empty; one with groups
// in it stays. It is for the end of a server, when none is being made: a
// parent that goes away between its own making and a group's would fail that
// group.
func RemoveParent() { removeParent(Root, onlyV2(Root)) }

func removeParent(root string, v2 bool) {
	pattern := filepath.Join(root, "*", Parent)
	if v2 {
		pattern = filepath.Join(root, Parent)
	}
	dirs, _ := filepath.Glob(pattern)
	for _, dir := range dirs {
		_ = unix.Rmdir(dir)
	}
}

// Leftovers lists the names of all groups below Parent.
func Leftovers() []string { return leftovers(Root, onlyV2(Root)) }

func leftovers(root string, v2 bool) []string {
	pattern := filepath.Join(root, "*", Parent, "*")
	if v2 {
		pattern = filepath.Join(root, Parent, "*")
	}
	paths, _ := filepath.Glob(pattern)
	seen := map[string]bool{}
	var names []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if name := filepath.Base(p); err == nil && info.IsDir() && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

func readInt(path string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// readKey finds "key value" in a flat keyed file; 0 when it is not there.
func readKey(path, key string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == key {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n
		}
	}
	return 0
}
