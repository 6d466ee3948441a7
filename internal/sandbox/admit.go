package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/atollhq/atoll/internal/errs"
)

// admit reserves places for n more sandboxes of an organisation, or none;
// release gives one back.
func (m *Manager) admit(org string, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closing:
		return errShuttingDown()
	case m.MaxPerOrg > 0 && m.perOrg[org]+n > m.MaxPerOrg:
		return errs.New(errs.Exhausted, "SANDBOX_LIMIT_REACHED", "the organisation runs %d sandboxes and may run %d: stop some first", m.perOrg[org], m.MaxPerOrg)
	case m.total+n > m.MaxSandboxes:
		return errs.New(errs.Unavailable, "CAPACITY_EXHAUSTED", "the server runs %d sandboxes and may run %d: try again later", m.total, m.MaxSandboxes)
	}
	m.work.Add(n)
	m.count(org, n)
	return nil
}

// release gives back what admit reserved, once nothing of the sandbox is left.
func (m *Manager) release(org string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(org, -1)
	m.work.Done()
}

// count must be called with mu held.
func (m *Manager) count(org string, n int) {
	m.total += n
	if m.perOrg[org] += n; m.perOrg[org] == 0 {
		delete(m.perOrg, org)
	}
	m.Observer.SandboxesLive(m.total)
}

// add makes admitted sandboxes known and starts their supervisors, unless the
// manager is closing.
func (m *Manager) add(boxes ...*box) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	for _, b := range boxes {
		m.boxes[b.row.ID] = b
		b.work.Go(b.watchIdle)
		go b.supervise()
	}
	return true
}

// remove forgets a sandbox that has ended or was let go.
func (m *Manager) remove(b *box) {
	m.mu.Lock()
	delete(m.boxes, b.row.ID)
	m.mu.Unlock()
	m.release(b.row.Org)
}

// checkMemory refuses what would take so many bytes of the host's memory at
// once and leave too few.
func (m *Manager) checkMemory(takes int64) error {
	if m.MinFreeMemory <= 0 {
		return nil
	}
	free, err := m.FreeMemory()
	if err != nil {
		return fmt.Errorf("read free memory: %w", err)
	}
	if free-takes < m.MinFreeMemory {
		return errs.New(errs.Unavailable, "HOST_MEMORY_LOW", "the host has too little free memory for that: try again later")
	}
	return nil
}

// checkCopies refuses what would take so many copies of the sandbox's memory.
func (b *box) checkCopies(ctx context.Context, n int) error {
	if b.m.MinFreeMemory <= 0 {
		return nil // its shim needn't be asked
	}
	return b.m.checkMemory(int64(n) * b.copyBytes(ctx))
}

// copyBytes is what a copy of the sandbox's memory takes: as its shim measures
// it, and no more than its size.
func (b *box) copyBytes(ctx context.Context) int64 {
	size := int64(b.row.MemoryMiB) << 20
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	status, err := b.shim.Status(ctx)
	if err != nil || status.CopyBytes == 0 {
		return size
	}
	return min(status.CopyBytes, size)
}

// FreeMemory returns how much memory the host can give out without swapping,
// in bytes, as the kernel estimates it.
func FreeMemory() (int64, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseMeminfo(raw)
}

func parseMeminfo(raw []byte) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no line MemAvailable")
}
