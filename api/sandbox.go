// Package api holds the wire types of Atoll: the REST and JSON-RPC surfaces
// that the official Deno Sandbox SDKs speak, and Atoll's extensions of them.
//
// It imports the standard library only, so that a client pulls in nothing
// else. What stands here is API: names and codes change on purpose only.
package api

import "encoding/json"

// Header names of the sandbox API.
const (
	HeaderConfig    = "X-Deno-Sandbox-Config" // base64 JSON of SandboxConfig
	HeaderSandboxID = "X-Deno-Sandbox-Id"
	HeaderTraceID   = "X-Deno-Trace-Id"
	HeaderOrg       = "X-Deno-Org"
)

// Limits and defaults of the platform. An operator can raise the limits.
const (
	DefaultMemoryMiB = 1280
	MinMemoryMiB     = 768
	MaxMemoryMiB     = 4096
	DefaultCPUs      = 2
	DefaultDiskBytes = 10 << 30
	MaxLabels        = 5
	MaxLabelKey      = 64  // bytes
	MaxLabelValue    = 128 // bytes
	MaxExtendMinutes = 30
)

// SandboxConfig is what the create call's configuration header carries. The
// JavaScript SDK sends StopAtMS and a list of volumes, the Python SDK Timeout,
// Env and a map of volumes: both are read.
type SandboxConfig struct {
	StopAtMS  *int64            `json:"stop_at_ms,omitempty"` // milliseconds since 1970
	Timeout   string            `json:"timeout,omitempty"`    // "session", "30s", "15m"
	MemoryMB  *int              `json:"memory_mb,omitempty"`  // MiB
	Labels    map[string]string `json:"labels,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Root      json.RawMessage   `json:"root,omitempty"`
	Volumes   json.RawMessage   `json:"volumes,omitempty"`
	AllowNet  *[]string         `json:"allow_net,omitempty"` // nil: everything that is not refused in every mode
	Secrets   map[string]Secret `json:"secrets,omitempty"`   // by the name of the variable that holds the placeholder
	Region    string            `json:"region,omitempty"`
	SSH       *bool             `json:"ssh,omitempty"`
	Port      *int              `json:"port,omitempty"`
	Debug     *bool             `json:"debug,omitempty"` // the client's own; ignored
	Isolation string            `json:"isolation,omitempty"`

	IdlePause       string `json:"idle_pause,omitempty"`         // "10m": paused after so long without activity; empty is never (Atoll's addition)
	IdlePauseToDisk *bool  `json:"idle_pause_to_disk,omitempty"` // then to disk (Atoll's addition)
}

// Sandbox status values.
const (
	StatusRunning = "running"
	StatusStopped = "stopped"
)

// Sandbox describes a sandbox in listings. The fields after Labels are
// Atoll's own.
type Sandbox struct {
	ID        string            `json:"id"`
	CreatedAt Date              `json:"createdAt"`
	StoppedAt *Date             `json:"stoppedAt"`
	Region    string            `json:"region"`
	Status    string            `json:"status"`
	Labels    map[string]string `json:"labels"`

	MemoryMiB  int    `json:"memoryMiB"`
	Isolation  string `json:"isolation"`
	Timeout    string `json:"timeout"`    // "session" or "duration"
	StopAt     *Date  `json:"stopAt"`     // nil for "session", and while the machine stands still
	StopReason string `json:"stopReason"` // empty while it runs

	Power           string `json:"power,omitempty"`           // PowerRunning, PowerPaused or PowerSuspended; empty when it has stopped
	PausedAt        *Date  `json:"pausedAt,omitempty"`        // since when the machine stands still
	RemainingMS     *int64 `json:"remainingMs,omitempty"`     // of a "duration" while the machine stands still, and time with it
	IdlePause       string `json:"idlePause,omitempty"`       // see SandboxConfig
	IdlePauseToDisk bool   `json:"idlePauseToDisk,omitempty"` //
	ForkedFrom      string `json:"forkedFrom,omitempty"`      // id of the sandbox that it continues
}

// Reasons why a sandbox stopped, in Sandbox.StopReason and, as text, in the
// WebSocket close frame.
const (
	StopSessionClosed = "session_closed"  // its primary client left
	StopTimeout       = "timeout"         // its lifetime ended
	StopKilled        = "killed"          // by request
	StopOOM           = "oom"             // the whole machine ran out of memory
	StopPausedTooLong = "paused_too_long" // it stood still for longer than the operator lets it
	StopCrashed       = "crashed"         // the machine or its shim died
	StopShutdown      = "shutdown"        // the operator stopped the server with its sandboxes
	StopFailed        = "start_failed"    // it never ran
)

// PatchSandbox changes a running sandbox: its lifetime, its network, when it
// is paused by itself. All fields but the first are Atoll's additions.
type PatchSandbox struct {
	StopAtMS        *int64       `json:"stop_at_ms,omitempty"`
	AllowNet        OptionalList `json:"allow_net,omitzero"`  // replaces the allow-list
	IdlePause       OptionalText `json:"idle_pause,omitzero"` // as in SandboxConfig
	IdlePauseToDisk *bool        `json:"idle_pause_to_disk,omitempty"`
}

// PatchSandboxResult is what was granted; fields that were not asked for are
// absent.
type PatchSandboxResult struct {
	StopAtMS int64          `json:"stop_at_ms,omitempty"`
	Network  *NetworkPolicy `json:"network,omitempty"`

	IdlePause       OptionalText `json:"idle_pause,omitzero"`          // with either field of the idle policy; null is never
	IdlePauseToDisk *bool        `json:"idle_pause_to_disk,omitempty"` //
}

// Error is the body of every failed HTTP call.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}
