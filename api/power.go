package api

import (
	"encoding/json"
	"time"
)

// Whether the machine of a running sandbox runs, in Sandbox.Power.
const (
	PowerRunning   = "running"
	PowerPaused    = "paused"    // it stands still, in memory
	PowerSuspended = "suspended" // it is on disk
)

// Bounds of a fork.
const DefaultMaxForks = 16 // children at once; an operator can change it

// Bounds of an idle policy.
const (
	MinIdlePause = 10 * time.Second
	MaxIdlePause = 24 * time.Hour
)

// PauseRequest is the body of a pause; an empty body is the zero value.
type PauseRequest struct {
	ToDisk bool `json:"to_disk,omitempty"` // free the memory, too; ends the connections
}

// PauseResult says what a pause took.
type PauseResult struct {
	Power        string `json:"power"`          // PowerPaused or PowerSuspended
	Bytes        int64  `json:"bytes"`          // written to disk
	StoodStillMS int64  `json:"stood_still_ms"` // from the last guest instruction to the answer
}

// ForkRequest is the body of a fork; an empty body is one child like its
// parent.
type ForkRequest struct {
	Count    *int              `json:"count,omitempty"`      // children; absent is 1
	Labels   map[string]string `json:"labels,omitzero"`      // in place of the parent's; absent are those
	StopAtMS *int64            `json:"stop_at_ms,omitempty"` // as in SandboxConfig
	Timeout  string            `json:"timeout,omitempty"`    // as in SandboxConfig; with neither, what is left of the parent's
}

// OptionalText is text that tells absent from null. In JSON it needs the
// option omitzero.
type OptionalText struct {
	Given bool
	Text  string // empty is null
}

// IsZero reports whether the field is absent.
func (o OptionalText) IsZero() bool { return !o.Given }

// MarshalJSON writes the text or null.
func (o OptionalText) MarshalJSON() ([]byte, error) {
	if o.Text == "" {
		return []byte("null"), nil
	}
	return json.Marshal(o.Text)
}

// UnmarshalJSON reads text or null.
func (o *OptionalText) UnmarshalJSON(in []byte) error {
	o.Given, o.Text = true, ""
	return json.Unmarshal(in, &o.Text)
}
