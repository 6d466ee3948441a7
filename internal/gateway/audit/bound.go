package audit

import (
	"strings"
	"time"
)

// The bounds of a record's text, in bytes.
const (
	maxName     = 253 // of a domain
	maxProtocol = 32
	maxMethod   = 32
	maxPath     = 1024
	maxRule     = 256
	maxNote     = 512
	maxSecrets  = 64 // names
	maxSecret   = 256
)

// bounded returns a record with valid text that is not too long, and a time.
func bounded(r Record, now time.Time) Record {
	if r.Time.IsZero() {
		r.Time = now
	}
	r.Time = stamp(r.Time)
	r.Name = clip(r.Name, maxName)
	r.Protocol = clip(r.Protocol, maxProtocol)
	r.Method = clip(r.Method, maxMethod)
	r.Path = clip(r.Path, maxPath)
	r.Rule = clip(r.Rule, maxRule)
	r.Note = clip(r.Note, maxNote)
	names := r.Secrets[:min(len(r.Secrets), maxSecrets)]
	r.Secrets = nil
	for _, name := range names {
		r.Secrets = append(r.Secrets, clip(name, maxSecret))
	}
	return r
}

func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// clip returns valid UTF-8 of at most n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		s = strings.Clone(s[:n]) // the rest may be large
	}
	return strings.ToValidUTF8(s, "?")
}
