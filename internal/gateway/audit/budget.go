package audit

import (
	"fmt"
	"time"
)

const (
	reportEvery = 5 * time.Second // how often dropped records are told of
	ruleTooMany = "too many records"
)

// budget bounds the rate of records of one sort: a bucket of tokens, one for
// each record, and more for a long one.
type budget struct {
	decision  string // of these records
	perSecond float64
	most      float64 // tokens
	tokens    float64
	filled    time.Time
	waiting   int // records for the disk
	lost      int // events that were dropped and not yet told of
	told      time.Time
}

func newBudget(decision string, perSecond, most float64, now time.Time) budget {
	return budget{decision: decision, perSecond: perSecond, most: most, tokens: most, filled: now}
}

const (
	perToken = 512 // bytes that a token pays for

	// reserve is the tokens that records of repetitions leave for what is new:
	// those of a flood come due after its end, all at once.
	reserve = 10
)

// take pays for a record, if it leaves that many tokens.
func (b *budget) take(size int, leave float64, now time.Time) bool {
	cost := max(1, float64(size)/perToken)
	b.tokens = min(b.most, b.tokens+b.perSecond*now.Sub(b.filled).Seconds())
	b.filled = now
	if b.tokens < cost+leave {
		return false
	}
	b.tokens -= cost
	return true
}

// budgets are one for each sort of record that must not be hidden by a flood
// of the others.
type budgets struct{ secret, allowed, refused budget }

func newBudgets(now time.Time) budgets {
	return budgets{
		secret:  newBudget(Allow, 50, 2000, now),
		allowed: newBudget(Allow, 50, 2000, now),
		refused: newBudget(Refuse, 10, 2000, now),
	}
}

func (b *budgets) of(r Record) *budget {
	switch {
	case r.Decision != Allow:
		return &b.refused
	case len(r.Secrets) > 0:
		return &b.secret
	}
	return &b.allowed
}

func (b *budgets) each() []*budget { return []*budget{&b.secret, &b.allowed, &b.refused} }

func (b *budgets) lost() bool { return b.secret.lost+b.allowed.lost+b.refused.lost > 0 }

// taken is called when nothing waits any more.
func (b *budgets) taken() {
	for _, each := range b.each() {
		each.waiting = 0
	}
}

// report returns records of what was dropped, seldom enough to be no flood
// themselves.
func (b *budgets) report(now time.Time, all bool) (out []Record) {
	for _, each := range b.each() {
		if each.lost == 0 || !all && now.Sub(each.told) < reportEvery {
			continue
		}
		out = append(out, Record{
			Time: stamp(now), Kind: Lost, Decision: each.decision, Rule: ruleTooMany,
			Note: fmt.Sprintf("%d records were dropped", each.lost), Count: each.lost,
		})
		each.lost, each.told = 0, now
	}
	return out
}
