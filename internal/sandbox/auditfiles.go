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

// AuditFiles returns where the record of a sandbox's network is: the file
// that is written to and the one before it, either of which may be missing,
// and whether more may come. A stopped sandbox has them as long as its row.
func (m *Manager) AuditFiles(ctx context.Context, org, id string) (current, older string, live bool, err error) {
	if _, err := m.row(ctx, org, id); err != nil {
		return "", "", false, err
	}
	m.mu.Lock()
	_, live = m.boxes[id]
	m.mu.Unlock()
	current = m.Data.Audit(id)
	return current, m.Data.OlderAudit(id), live, nil
}

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
