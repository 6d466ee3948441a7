package sandbox

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

// CodeInvalidIdle is the code of refused idle policies.
const CodeInvalidIdle = "INVALID_IDLE_PAUSE"

const (
	sampleEvery   = 5 * time.Second // at most; short policies are looked at more often
	sampleTimeout = 5 * time.Second // for a shim to answer
	idleShare     = 0.02            // of one CPU that an idle machine may use: clocks, daemons, the guest's kernel
)

// IdlePolicy says when a sandbox is paused by itself. The zero value says
// never.
type IdlePolicy struct {
	After  time.Duration // without activity
	ToDisk bool
}

func (p IdlePolicy) on() bool { return p.After > 0 }

// interval is how often a sandbox with this policy is looked at.
func (p IdlePolicy) interval() time.Duration { return min(p.After/5, sampleEvery) }

// IdleChange changes a policy; what is nil stays.
type IdleChange struct {
	After  *time.Duration
	ToDisk *bool
}

// ReadIdleChange validates a change: a length such as "10m", or empty text for
// never.
func ReadIdleChange(after *string, toDisk *bool) (c IdleChange, err error) {
	c.ToDisk = toDisk
	if after != nil {
		d, err := parseIdle(*after)
		if err != nil {
			return c, err
		}
		c.After = &d
	}
	return c, nil
}

func (c IdleChange) apply(p IdlePolicy) IdlePolicy {
	if c.After != nil {
		p.After = *c.After
	}
	if c.ToDisk != nil {
		p.ToDisk = *c.ToDisk
	}
	return p
}

var idlePattern = regexp.MustCompile(`^([0-9]{1,6})(s|m|h)$`)

func parseIdle(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	m := idlePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, badIdle(`idle_pause is %q and must be a length such as "30s", "10m" or "2h"`, clip(s))
	}
	n, _ := strconv.Atoi(m[1]) // six digits
	d := time.Duration(n) * map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[m[2]]
	if d < api.MinIdlePause || d > api.MaxIdlePause {
		return 0, badIdle("idle_pause must lie between %s and %s", formatIdle(api.MinIdlePause), formatIdle(api.MaxIdlePause))
	}
	return d, nil
}

func badIdle(format string, args ...any) error {
	return errs.New(errs.Invalid, CodeInvalidIdle, format, args...)
}

// formatIdle writes a policy's length as parseIdle reads it, empty for never.
func formatIdle(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return strconv.Itoa(int(d/time.Second)) + "s"
}

// idleness finds out since when nothing has happened.
type idleness struct {
	since   time.Time // of the last activity
	at      time.Time // of the last sample
	traffic int64
	cpu     time.Duration
}

// beyond reports whether the machine has used more CPU time since the last
// sample than an idle one may between two.
func (i *idleness) beyond(cpu time.Duration) bool {
	return float64(cpu-i.cpu) > idleShare*float64(sampleEvery)
}

// sample takes what was counted up to now and returns for how long nothing has
// happened. The first one begins anew.
func (i *idleness) sample(now time.Time, traffic int64, cpu time.Duration) time.Duration {
	first := i.at.IsZero()
	busy := float64(cpu-i.cpu) > idleShare*float64(now.Sub(i.at))
	if first || busy || traffic != i.traffic {
		i.since = now
	}
	i.at, i.traffic, i.cpu = now, traffic, cpu
	return now.Sub(i.since)
}

func (b *box) idlePolicy() IdlePolicy {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idle
}

// reconsiderIdle tells the watch that policy or power have changed.
func (b *box) reconsiderIdle() {
	select {
	case b.idleMoved <- struct{}{}:
	default:
	}
}

// watchIdle pauses the sandbox when its policy says so, until it ends.
func (b *box) watchIdle() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen idleness
	for {
		select {
		case <-b.alive.Done():
			return
		case <-b.idleMoved:
			seen = idleness{}
		case <-timer.C:
		}
		policy := b.idlePolicy()
		if !policy.on() || b.still.Load() {
			timer.Stop()
			continue
		}
		timer.Reset(b.lookIdle(policy, &seen))
	}
}

// lookIdle takes a sample and pauses the sandbox when it is time to. It
// returns how long to wait until the next look.
func (b *box) lookIdle(policy IdlePolicy, seen *idleness) time.Duration {
	traffic := b.traffic.Load()
	cpu, err := b.cpuTime()
	if err != nil || seen.sample(time.Now(), traffic, cpu) < policy.After {
		return policy.interval() // a shim that can't say anything is the supervisor's matter
	}
	if !b.pauseIdle(policy, seen) {
		return 0
	}
	*seen = idleness{}
	return policy.interval()
}

// errNoTurn: a pause did not get its turn before the next sample was due.
var errNoTurn = errors.New("it was not its turn")

// pauseIdle reports whether it tried. It waits for its turn only until the next
// sample is due, and so not for a sandbox that isn't idle any more.
func (b *box) pauseIdle(policy IdlePolicy, seen *idleness) (tried bool) {
	ctx, cancel := context.WithTimeoutCause(b.alive, policy.interval(), errNoTurn)
	defer cancel()
	_, err := b.pause(ctx, policy.ToDisk, seen)
	switch {
	case errors.Is(err, errNoTurn):
		return false
	case err == nil, errors.Is(err, errBusy), b.alive.Err() != nil:
	default:
		b.m.Log.Warn("pause an idle sandbox", "sandbox_id", b.row.ID, "org", b.row.Org, "error", err)
	}
	return true
}

func (b *box) cpuTime() (time.Duration, error) {
	ctx, cancel := context.WithTimeout(b.alive, sampleTimeout)
	defer cancel()
	status, err := b.shim.Status(ctx)
	return status.CPUTime, err
}

// computes reports whether the machine has done anything since it was seen.
func (b *box) computes(seen *idleness) bool {
	cpu, err := b.cpuTime()
	return err == nil && seen.beyond(cpu)
}

// SetIdle changes when a sandbox is paused by itself and returns the policy
// that holds from then on.
func (m *Manager) SetIdle(ctx context.Context, org, id string, change IdleChange) (after string, toDisk bool, err error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return "", false, err
	}
	p, err := b.setIdle(ctx, change)
	return formatIdle(p.After), p.ToDisk, err
}

// MaySetIdle says why SetIdle would be refused, or nil. It changes nothing.
func (m *Manager) MaySetIdle(ctx context.Context, org, id string, change IdleChange) error {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return err
	}
	return m.checkIdle(b.row.Isolation, change.apply(b.idlePolicy()))
}

// checkIdle refuses a policy that an isolation can't fulfil.
func (m *Manager) checkIdle(isolation string, p IdlePolicy) error {
	if !p.on() {
		return nil
	}
	return m.canStandStill(isolation, p.ToDisk)
}

func (b *box) setIdle(ctx context.Context, change IdleChange) (IdlePolicy, error) {
	b.timing.Lock()
	defer b.timing.Unlock()
	p := change.apply(b.idlePolicy())
	if err := b.m.checkIdle(b.row.Isolation, p); err != nil {
		return p, err
	}
	if err := b.m.Store.SetIdle(ctx, b.row.ID, p.After, p.ToDisk); err != nil {
		return p, b.unreachable(err)
	}
	b.mu.Lock()
	b.idle = p
	b.mu.Unlock()
	b.traffic.Add(1) // a pause by the old policy that waits for its turn gives up
	b.reconsiderIdle()
	return p, nil
}
