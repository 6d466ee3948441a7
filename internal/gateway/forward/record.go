package forward

import (
	"errors"
	"time"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/policy"
)

// record is what the audit is told about a connection or flow when it ends.
type record struct{ audit.Record }

func newRecord(q policy.Query) *record {
	return &record{audit.Record{
		Time:     time.Now(),
		Kind:     audit.Connection,
		Name:     q.Name,
		Addr:     q.Addr,
		Port:     q.Port,
		Protocol: string(q.Proto),
		Decision: audit.Refuse,
	}}
}

// fail notes why a connection ended, unless it ended well.
func (r *record) fail(err error) {
	switch rule, refused := err.(refusal); {
	case refused:
		r.Decision, r.Rule = audit.Refuse, string(rule)
	case errors.Is(err, errNotAllowed):
		r.Note = "cut: no longer allowed"
	case errors.Is(err, errMachineGone):
		r.Note = "cut: the sandbox was suspended"
	case err != nil:
		r.Note = "broken off"
	}
}

func (r *record) end(log audit.Log) {
	r.Millis = time.Since(r.Time).Milliseconds()
	log.Add(r.Record)
}
