package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/atollhq/atoll/internal/machine/process"
)

// flattenJob names QEMU's job.
const flattenJob = "flatten"

const jobPoll = 20 * time.Millisecond // between questions how far it is

// boundChain makes a chain short that would become too long by another file,
// or takes too much of the host's disk: whoever writes and forks in turn would
// fill it otherwise. The machine may run meanwhile.
func (m *vm) boundChain(ctx context.Context) error {
	used, err := usedBytes(workDir(m.dir))
	if err != nil {
		return err
	}
	if len(m.disks) < maxChain && used <= maxHistory*m.spec.DiskBytes || len(m.disks) == 1 {
		return nil
	}
	if err := m.flatten(ctx); err != nil {
		return fmt.Errorf("flatten disk: %w", err)
	}
	return nil
}

// flatten copies what is in the files below into the last one and gives them
// up. Snapshots that share them keep them.
func (m *vm) flatten(ctx context.Context) error {
	n := len(m.disks) - 1
	if err := m.stream(ctx, nodeName(m.disks[n])); err != nil {
		return err
	}
	below := m.disks[:n]
	m.disks = m.disks[n:]
	var err error
	for i := len(below) - 1; i >= 0; i-- {
		node := nodeName(below[i])
		err = errors.Join(err, m.forget(ctx, node), m.forget(ctx, node+"-file"), os.Remove(m.work(below[i])))
	}
	return err
}

// forget has QEMU close a block node that nothing refers to.
func (m *vm) forget(ctx context.Context, node string) error {
	return m.surely(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
}

// stream fills a node with what its backing chain holds, which it needs no
// more then. When ctx ends, so does the job, or it is left to itself.
func (m *vm) stream(ctx context.Context, node string) error {
	job := map[string]any{"id": flattenJob}
	_ = m.surely(ctx, "job-dismiss", job, nil) // of an earlier attempt that was left
	err := m.surely(ctx, "block-stream", map[string]any{"job-id": flattenJob, "device": node, "auto-dismiss": false}, nil)
	if err != nil {
		return err
	}
	var cancelled time.Time
	for {
		state, failure, err := m.job(ctx)
		switch {
		case err != nil:
			return err
		case state == "concluded":
			if !cancelled.IsZero() {
				failure = ctx.Err()
			}
			return errors.Join(failure, m.surely(ctx, "job-dismiss", job, nil))
		case ctx.Err() == nil:
		case cancelled.IsZero():
			cancelled = time.Now()
			_ = m.surely(ctx, "job-cancel", job, nil) // it may have ended just now
		case time.Since(cancelled) > process.Patience:
			return fmt.Errorf("qemu does not end the job: %w", ctx.Err())
		}
		time.Sleep(jobPoll)
	}
}

// surely runs a command also when ctx has ended.
func (m *vm) surely(ctx context.Context, command string, arguments, result any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), process.Patience)
	defer cancel()
	return m.monitor.run(ctx, command, arguments, result)
}

// job returns the state of the job, and why it failed.
func (m *vm) job(ctx context.Context) (state string, failure, err error) {
	var jobs []struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Error  string `json:"error"`
	}
	if err := m.surely(ctx, "query-jobs", nil, &jobs); err != nil {
		return "", nil, err
	}
	for _, j := range jobs {
		if j.ID != flattenJob {
			continue
		}
		if j.Error != "" {
			failure = fmt.Errorf("%.256q", j.Error)
		}
		return j.Status, failure, nil
	}
	return "", nil, errors.New("qemu has forgotten the job")
}
