package sandbox

import "time"

// lifetime is when a sandbox ends by itself. It stands still while the
// sandbox's machine does.
type lifetime struct {
	end   time.Time     // zero for the lifetime "session"; meaningless while still
	still bool          //
	since time.Time     // while still
	left  time.Duration // while still
}

func (l *lifetime) session() bool { return l.end.IsZero() }

// stop lets time stand still. What is left, and since when, is kept in whole
// milliseconds, as the store keeps it.
func (l *lifetime) stop(now time.Time) {
	if l.still {
		return
	}
	l.still, l.since = true, now.Truncate(time.Millisecond)
	if !l.session() {
		l.left = max(l.end.Sub(now), 0).Truncate(time.Millisecond)
	}
}

// start lets time go on.
func (l *lifetime) start(now time.Time) {
	l.end = l.from(now)
	l.still, l.since, l.left = false, time.Time{}, 0
}

// from is the end if time goes on now, as it may do already. It is zero for
// the lifetime "session".
func (l *lifetime) from(now time.Time) time.Time {
	if !l.still || l.session() {
		return l.end
	}
	return now.Add(l.left).Truncate(time.Millisecond)
}

// moveTo makes from(now) be at.
func (l *lifetime) moveTo(at, now time.Time) {
	if l.still {
		l.left = at.Sub(now)
		return
	}
	l.end = at
}
