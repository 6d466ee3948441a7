package audit

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	repeatFor   = time.Second // how long repetitions are gathered
	maxRepeated = 256         // different records that are waited for
)

// repeats gathers the repetitions of records: the first one is written at
// once, those that follow within a second become one record with a count.
type repeats map[key]*repeat

// key is all of a record but its time and amounts.
type key struct {
	kind                                       Kind
	name, protocol, method, path               string
	addr                                       netip.Addr
	port                                       uint16
	status                                     int
	decision, rule, secrets /* joined */, note string
}

type repeat struct {
	until  time.Time
	record Record // Count is 0 while nothing was repeated
}

func keyOf(r Record) key {
	return key{
		kind: r.Kind, name: r.Name, protocol: r.Protocol, method: r.Method, path: r.Path,
		addr: r.Addr, port: r.Port, status: r.Status,
		decision: r.Decision, rule: r.Rule, secrets: strings.Join(r.Secrets, ","), note: r.Note,
	}
}

// merge adds r to what is waited for. It reports whether that is so.
func (m repeats) merge(r Record) bool {
	held := m[keyOf(r)]
	switch {
	case held == nil:
		return false
	case held.record.Count == 0:
		held.record, held.record.Count = r, r.events()
	default:
		held.record.Count += r.events()
		held.record.Sent += r.Sent
		held.record.Received += r.Received
		held.record.Millis = max(held.record.Millis, r.Millis)
	}
	return true
}

// remember waits for repetitions of r, if there is room.
func (m *repeats) remember(r Record, now time.Time) {
	if *m == nil {
		*m = repeats{}
	}
	if len(*m) < maxRepeated {
		(*m)[keyOf(r)] = &repeat{until: now.Add(repeatFor)}
	}
}

// due returns what was gathered for long enough, oldest first. What goes on
// repeating is waited for again.
func (m repeats) due(now time.Time, all bool) (out []Record) {
	for k, held := range m {
		switch {
		case !all && now.Before(held.until):
		case held.record.Count == 0:
			delete(m, k)
		default:
			r := held.record
			if r.Count == 1 {
				r.Count = 0 // as one that stands for itself
			}
			out = append(out, r)
			held.record, held.until = Record{}, now.Add(repeatFor)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return a.Time.Compare(b.Time) })
	return out
}

// events is how many events a record stands for.
func (r Record) events() int { return max(1, r.Count) }
