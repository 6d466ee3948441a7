package sandbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/store"
)

func TestIdleness(t *testing.T) {
	const second = time.Second
	for name, c := range map[string]struct {
		traffic []int64
		cpu     []time.Duration // used between samples 5 s apart
		want    time.Duration
	}{
		"nothing":          {[]int64{7, 7, 7}, []time.Duration{0, 0, 0}, 10 * second},
		"traffic at last":  {[]int64{7, 7, 8}, []time.Duration{0, 0, 0}, 0},
		"traffic at first": {[]int64{7, 8, 8}, []time.Duration{0, 0, 0}, 5 * second},
		"a little CPU":     {[]int64{7, 7, 7}, []time.Duration{0, second / 10, second / 10}, 10 * second},
		"CPU":              {[]int64{7, 7, 7}, []time.Duration{0, second, second / 9}, 0},
		"CPU at first":     {[]int64{7, 7, 7}, []time.Duration{0, second, 0}, 5 * second},
		"CPU before":       {[]int64{7, 7, 7}, []time.Duration{time.Hour, 0, 0}, 10 * second},
		"restored":         {[]int64{7, 7, 7}, []time.Duration{time.Hour, -time.Hour, 0}, 10 * second},
	} {
		var i idleness
		var got, cpu time.Duration
		for n, traffic := range c.traffic {
			cpu += c.cpu[n]
			got = i.sample(now.Add(time.Duration(n)*5*second), traffic, cpu)
		}
		if got != c.want {
			t.Errorf("%s: idle for %v, want %v", name, got, c.want)
		}
	}
}

func TestReadIdleChange(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "10s": 10 * time.Second, "90s": 90 * time.Second, "10m": 10 * time.Minute, "60m": time.Hour, "24h": 24 * time.Hour,
	} {
		c, err := ReadIdleChange(&text, nil)
		if err != nil || *c.After != want {
			t.Errorf("%q: %+v %v", text, c, err)
		}
		if d, err := parseIdle(formatIdle(want)); err != nil || d != want {
			t.Errorf("%v is written as %q and read as %v", want, formatIdle(want), d)
		}
	}
	for _, text := range []string{"9s", "0s", "25h", "999999h", "10", "10 m", "-10m", "1.5h", "10M", "session", "1h30m", "9999999s"} {
		if _, err := ReadIdleChange(&text, nil); errs.Public(err).Code != CodeInvalidIdle {
			t.Errorf("%q: %v", text, err)
		}
	}
	on, off := true, false
	p := IdlePolicy{After: time.Minute}
	for _, step := range []struct {
		change IdleChange
		want   IdlePolicy
	}{
		{IdleChange{ToDisk: &on}, IdlePolicy{time.Minute, true}},
		{IdleChange{After: new(time.Duration)}, IdlePolicy{0, true}},
		{IdleChange{}, IdlePolicy{0, true}},
		{IdleChange{ToDisk: &off}, IdlePolicy{}},
	} {
		if p = step.change.apply(p); p != step.want {
			t.Errorf("got %+v, want %+v", p, step.want)
		}
	}
}

// measured is a shim that may be asked what its machine used, and nothing else.
type measured struct {
	Shim
	cpu time.Duration
}

func (m *measured) Status(context.Context) (ShimStatus, error) {
	return ShimStatus{Power: PowerRunning, CPUTime: m.cpu}, nil
}

// TestActivityOvertakesAnIdlePause: what happened between the look and the
// pause counts.
func TestActivityOvertakesAnIdlePause(t *testing.T) {
	m := NewManager(Options{Starts: 1})
	for name, happen := range map[string]func(b *box, c *Client){
		"a message to the client": func(_ *box, c *Client) { c.Sent() },
		"a message on its way": func(b *box, c *Client) {
			before := b.traffic.Load()
			_ = c.Enter(t.Context())
			b.traffic.Store(before) // it was seen already, and is still on its way
		},
		"a connection": func(b *box, _ *Client) { _, _ = b.connect() },
		"a farewell":   func(b *box, c *Client) { b.leave(c) },
		"computing":    func(b *box, _ *Client) { b.shim.(*measured).cpu += 200 * time.Millisecond },
	} {
		b := newBox(m, store.Sandbox{ID: NewID("ord")}, &measured{cpu: time.Hour}, PowerRunning)
		c, err := b.connect()
		if err != nil {
			t.Fatal(err)
		}
		seen := idleness{traffic: b.traffic.Load(), cpu: time.Hour - 50*time.Millisecond}
		happen(b, c)
		if _, err := b.pause(t.Context(), false, &seen); !errors.Is(err, errBusy) {
			t.Errorf("%s: %v", name, err)
		}
		if b.still.Load() || b.powerNow() != api.PowerRunning {
			t.Errorf("%s: it stands still", name)
		}
		b.die()
	}
}

func TestLifetime(t *testing.T) {
	at := func(d time.Duration) time.Time { return now.Add(d) }
	l := lifetime{end: at(time.Hour)}
	l.stop(at(20*time.Minute + 600*time.Microsecond))
	l.stop(at(30 * time.Minute)) // stands still already
	if want := 40*time.Minute - time.Millisecond; l.left != want {
		t.Errorf("left %v, want %v", l.left, want)
	}
	if got, want := l.from(at(2*time.Hour)), at(2*time.Hour+40*time.Minute-time.Millisecond); !got.Equal(want) {
		t.Errorf("ends %v, want %v", got, want)
	}
	l.moveTo(at(3*time.Hour), at(2*time.Hour))
	l.start(at(5 * time.Hour))
	if !l.end.Equal(at(6*time.Hour)) || l.still {
		t.Errorf("got %+v", l)
	}
	l.moveTo(at(7*time.Hour), at(5*time.Hour))
	if !l.from(now).Equal(at(7 * time.Hour)) {
		t.Errorf("got %+v", l)
	}
	l.stop(at(8 * time.Hour)) // too late
	if l.left != 0 {
		t.Errorf("left %v", l.left)
	}
	session := lifetime{}
	session.stop(now)
	session.start(at(time.Hour))
	if !session.session() || session.left != 0 {
		t.Errorf("got %+v", session)
	}
}
