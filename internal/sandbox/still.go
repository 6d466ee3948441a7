package sandbox

import "context"

// stillEvery is how often a shim is asked whether its machine stands still that
// is to.
const stillEvery = maxNap

// checkStill is noticeRunning for a sandbox whose power nobody is changing.
func (b *box) checkStill() {
	select {
	case b.changing <- struct{}{}:
	default:
		return
	}
	defer b.release()
	b.noticeRunning()
}

// noticeRunning lets the lifetime go on of a machine that was not resumed and
// runs all the same: its agent, which is the guest's, did not say so, or said so
// when nobody waited for it any more. Otherwise a guest that keeps silent would
// run for ever. Whoever calls it may change the power.
func (b *box) noticeRunning() {
	ctx, cancel := context.WithTimeout(b.alive, sampleTimeout)
	defer cancel()
	status, err := b.shim.Status(ctx)
	if err != nil || status.Power != PowerRunning || b.powerNow() == PowerRunning {
		return
	}
	b.m.Log.Warn("a sandbox runs that was to stand still", "sandbox_id", b.row.ID, "org", b.row.Org)
	if err := b.startTime(ctx); err != nil {
		b.m.Log.Error("record that a sandbox goes on", "sandbox_id", b.row.ID, "error", err)
	}
	b.become(PowerRunning, 0)
}
