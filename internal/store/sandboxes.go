package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/atollhq/atoll/internal/errs"
)

// Status is where a sandbox stands in its life. It only moves forward.
type Status string

// The states.
const (
	Creating Status = "creating"
	Running  Status = "running"
	Stopping Status = "stopping" // the reason is known, not everything is freed
	Stopped  Status = "stopped"
)

// Sandbox is one row. Spec fields don't change after creation.
type Sandbox struct {
	ID        string
	Org       string
	Region    string
	Labels    map[string]string
	MemoryMiB int
	Isolation string // name of the driver
	Created   time.Time

	// What a fork has in common with its parent, whatever the settings are by
	// then; zero if an older server made it.
	CPUs      int
	DiskBytes int64
	Image     string // path of its file

	ForkedFrom string // id of the sandbox that it continues; empty for none

	Status  Status
	StopAt  time.Time // zero for the lifetime "session"
	Stopped time.Time // zero while it runs
	Reason  string    // api.Stop…; empty while it runs

	// While the machine stands still the lifetime does, too: StopAt is then
	// what it was, and Remaining counts.
	Power      string        // api.PowerPaused or api.PowerSuspended; empty while it runs
	Remaining  time.Duration // 0 for the lifetime "session"
	StillSince time.Time     // zero while it runs

	IdlePause  time.Duration // without activity until it is paused; 0 is never
	IdleToDisk bool
}

const sandboxColumns = `id, org, region, labels, memory, isolation, status, created, stop_at, stopped, reason,
	power, remaining, still_since, idle_pause, idle_to_disk, forked_from, cpus, disk, image`

// CreateSandbox stores a new sandbox.
func (s *Store) CreateSandbox(ctx context.Context, sb Sandbox) error {
	labels, err := json.Marshal(sb.Labels)
	if err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	return s.exec(ctx, "create sandbox", `INSERT INTO sandboxes (`+sandboxColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		sb.ID, sb.Org, sb.Region, string(labels), sb.MemoryMiB, sb.Isolation, string(sb.Status),
		millis(sb.Created), optMillis(sb.StopAt), optMillis(sb.Stopped), sb.Reason,
		sb.Power, sb.Remaining.Milliseconds(), optMillis(sb.StillSince), sb.IdlePause.Milliseconds(), sb.IdleToDisk, sb.ForkedFrom, sb.CPUs, sb.DiskBytes, sb.Image)
}

// SetRunning records that sandboxes that were being created run: all of them,
// or none if one was not being created.
func (s *Store) SetRunning(ctx context.Context, ids ...string) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return classify(err, "set running")
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	for _, id := range ids {
		if err := execIn(ctx, tx, "set running", `UPDATE sandboxes SET status = 'running' WHERE id = ? AND status = 'creating'`, id); err != nil {
			return err
		}
	}
	return classify(tx.Commit(), "set running")
}

// SetStill records that the machine of a running sandbox stands still, since
// when, and how much of its lifetime was left by then.
func (s *Store) SetStill(ctx context.Context, id, power string, since time.Time, remaining time.Duration) error {
	return s.exec(ctx, "set still", `UPDATE sandboxes SET power = ?, still_since = ?, remaining = ? WHERE id = ? AND status = 'running'`,
		power, millis(since), remaining.Milliseconds(), id)
}

// SetRemaining changes how much is left of the lifetime of a sandbox whose
// machine stands still.
func (s *Store) SetRemaining(ctx context.Context, id string, remaining time.Duration) error {
	return s.exec(ctx, "set remaining time", `UPDATE sandboxes SET remaining = ? WHERE id = ? AND status = 'running' AND power <> ''`,
		remaining.Milliseconds(), id)
}

// SetAwake records that the machine of a sandbox runs again, and its end,
// which is zero for the lifetime "session".
func (s *Store) SetAwake(ctx context.Context, id string, stopAt time.Time) error {
	return s.exec(ctx, "set awake", `UPDATE sandboxes SET power = '', still_since = NULL, remaining = 0, stop_at = ? WHERE id = ? AND status = 'running'`,
		optMillis(stopAt), id)
}

// SetIdle replaces a running sandbox's idle policy.
func (s *Store) SetIdle(ctx context.Context, id string, after time.Duration, toDisk bool) error {
	return s.exec(ctx, "set idle policy", `UPDATE sandboxes SET idle_pause = ?, idle_to_disk = ? WHERE id = ? AND status = 'running'`,
		after.Milliseconds(), toDisk, id)
}

// SetStopAt moves the end of a running sandbox.
func (s *Store) SetStopAt(ctx context.Context, id string, at time.Time) error {
	return s.exec(ctx, "set end", `UPDATE sandboxes SET stop_at = ? WHERE id = ? AND status = 'running'`, millis(at), id)
}

// SetStopping records when and why a sandbox began to stop. The first reason
// stays.
func (s *Store) SetStopping(ctx context.Context, id, reason string, now time.Time) error {
	return s.exec(ctx, "set stopping",
		`UPDATE sandboxes SET status = 'stopping', stopped = ?, reason = ? WHERE id = ? AND status IN ('creating', 'running')`,
		millis(now), reason, id)
}

// SetStopped records that everything that a stopping sandbox held is freed.
func (s *Store) SetStopped(ctx context.Context, id string) error {
	return s.exec(ctx, "set stopped", `UPDATE sandboxes SET status = 'stopped' WHERE id = ? AND status IN ('stopping', 'stopped')`, id)
}

// Sandbox finds one sandbox of any state.
func (s *Store) Sandbox(ctx context.Context, id string) (Sandbox, error) {
	sb, err := scanSandbox(s.read.QueryRowContext(ctx, `SELECT `+sandboxColumns+` FROM sandboxes WHERE id = ?`, id))
	return sb, classify(err, "find sandbox")
}

// LiveSandboxes returns those that are not stopped, oldest first.
func (s *Store) LiveSandboxes(ctx context.Context) ([]Sandbox, error) {
	return all(ctx, s.read, scanSandbox, "list live sandboxes",
		`SELECT `+sandboxColumns+` FROM sandboxes WHERE status <> 'stopped' ORDER BY created, id`)
}

// SandboxFilter selects sandboxes of one organisation.
type SandboxFilter struct {
	Org          string
	Labels       map[string]string // all of them must match
	Running      bool              // include those that run
	StoppedAfter time.Time         // include those that stopped later than this; zero includes none
	Limit        int
}

// Sandboxes returns the selected sandboxes, running ones first, then newest
// first. Those still being created are not among them.
func (s *Store) Sandboxes(ctx context.Context, f SandboxFilter) ([]Sandbox, error) {
	query := `SELECT ` + sandboxColumns + ` FROM sandboxes WHERE org = ?
		AND ((? AND status = 'running') OR (? AND status IN ('stopping', 'stopped') AND stopped > ?))`
	args := []any{f.Org, f.Running, !f.StoppedAfter.IsZero(), millis(f.StoppedAfter)}
	for key, val := range f.Labels {
		query += ` AND EXISTS (SELECT 1 FROM json_each(labels) AS l WHERE l.key = ? AND l.value = ?)`
		args = append(args, key, val)
	}
	query += ` ORDER BY status <> 'running', created DESC, id LIMIT ?`
	return all(ctx, s.read, scanSandbox, "list sandboxes", query, append(args, f.Limit)...)
}

// PurgeSandboxes forgets those that stopped before a time and returns how
// many they were.
func (s *Store) PurgeSandboxes(ctx context.Context, before time.Time) (int64, error) {
	res, err := s.write.ExecContext(ctx, `DELETE FROM sandboxes WHERE status = 'stopped' AND stopped < ?`, millis(before))
	if err != nil {
		return 0, classify(err, "purge sandboxes")
	}
	return res.RowsAffected()
}

func scanSandbox(r row) (Sandbox, error) {
	var sb Sandbox
	var labels, status string
	var created, remaining, idle int64
	var stopAt, stopped, since sql.NullInt64
	err := r.Scan(&sb.ID, &sb.Org, &sb.Region, &labels, &sb.MemoryMiB, &sb.Isolation, &status, &created, &stopAt, &stopped, &sb.Reason,
		&sb.Power, &remaining, &since, &idle, &sb.IdleToDisk, &sb.ForkedFrom, &sb.CPUs, &sb.DiskBytes, &sb.Image)
	if err != nil {
		return sb, err
	}
	if err := json.Unmarshal([]byte(labels), &sb.Labels); err != nil {
		return sb, errs.Wrap(err, errs.Internal, "STORE_DAMAGED", "the labels of sandbox %s are damaged in the database", sb.ID)
	}
	sb.Status, sb.Created = Status(status), fromMillis(created)
	sb.StopAt, sb.Stopped, sb.StillSince = fromOptMillis(stopAt), fromOptMillis(stopped), fromOptMillis(since)
	sb.Remaining, sb.IdlePause = time.Duration(remaining)*time.Millisecond, time.Duration(idle)*time.Millisecond
	return sb, nil
}
