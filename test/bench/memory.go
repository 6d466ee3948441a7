//go:build e2e

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/client"
)

// idleCount is how many sandboxes idle while their memory is counted.
const idleCount = 50

// settle lets garbage collectors and page caches come to rest.
const settle = 20 * time.Second

// memoryFigure sums the proportional set size of all processes of idle
// sandboxes.
func memoryFigure(ctx context.Context, b *bench) error {
	var all []*client.Sandbox
	defer func() {
		for _, s := range all {
			_ = s.Close()
		}
	}()
	for range idleCount {
		s, err := b.client.Sandboxes.Create(ctx, client.CreateOptions{})
		if err != nil {
			return err
		}
		all = append(all, s)
		if err := echo(ctx, s); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	sums, err := pss(b)
	if err != nil {
		return err
	}
	var total int64
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		total += sums[name]
		parts = append(parts, fmt.Sprintf("%s %.1f", name, mib(sums[name])/idleCount))
	}
	b.add(fmt.Sprintf("idle memory per sandbox, %d running (PSS)", idleCount),
		fmt.Sprintf("%.1f MiB", mib(total)/idleCount), strings.Join(parts, ", "), "")
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// pss sums the processes of the server's sandboxes, by what they are. Several
// processes of a sentry share one address space, which counts once.
func pss(b *bench) (map[string]int64, error) {
	sums := map[string]int64{}
	counted := map[string][]int{} // by network namespace: one sandbox's processes
	for _, p := range b.server.Processes() {
		if slices.ContainsFunc(counted[p.NetNS], func(pid int) bool { return sameMemory(p.PID, pid) }) {
			continue
		}
		kib, err := pssOf(p.PID)
		if err != nil {
			continue // ended meanwhile
		}
		counted[p.NetNS] = append(counted[p.NetNS], p.PID)
		sums[kindOf(p.Name, p.Args)] += kib << 10
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("no process of a sandbox found")
	}
	return sums, nil
}

// sameMemory asks the kernel whether two processes share their memory; see
// kcmp(2).
func sameMemory(a, b int) bool {
	const kcmpVM = 1
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpVM, 0, 0, 0)
	return errno == 0 && r == 0
}

func kindOf(name, args string) string {
	switch first, _, _ := strings.Cut(args, " "); {
	case strings.HasPrefix(first, "runsc-"):
		return strings.TrimPrefix(first, "runsc-")
	case args == "":
		return "guest processes"
	default:
		return name
	}
}

func pssOf(pid int) (kib int64, err error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "Pss:" {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no Pss of process %d", pid)
}
