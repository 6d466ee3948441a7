package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/atollhq/atoll/internal/errs"
)

// AuditFiles are where the record of a sandbox's network is.
type AuditFiles struct {
	Current, Older string // paths; either file may be missing

	// Ended is closed once nothing is added any more, as far as this manager
	// looks after the sandbox.
	Ended <-chan struct{}
}

// AuditFiles finds the record of a sandbox's network. A stopped sandbox has
// one as long as its row.
func (m *Manager) AuditFiles(ctx context.Context, org, id string) (AuditFiles, error) {
	m.mu.Lock()
	b := m.boxes[id]
	m.mu.Unlock()
	if _, err := m.row(ctx, org, id); err != nil {
		return AuditFiles{}, err
	}
	files := AuditFiles{Current: m.Data.Audit(id), Older: m.Data.OlderAudit(id), Ended: over}
	if b != nil {
		files.Ended = b.done
	}
	return files, nil
}

// over is a thing that has ended.
var over = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// sweepAudit removes the audit files that belong to no row.
func (m *Manager) sweepAudit(ctx context.Context) error {
	entries, err := os.ReadDir(m.Data.Audits())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list audit files: %w", err)
	}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if !ValidID(id) || m.isClaimed(id) {
			continue
		}
		if _, err := m.Store.Sandbox(ctx, id); !errors.Is(err, errs.NotFound) {
			continue
		}
		if err := errors.Join(remove(m.Data.Audit(id)), remove(m.Data.OlderAudit(id))); err != nil {
			return fmt.Errorf("remove audit file: %w", err)
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
