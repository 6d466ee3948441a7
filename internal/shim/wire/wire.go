// Package wire is what the daemon and a shim say to each other: the shim's
// specification on its standard input, one line of answer on its standard
// output, and one request per connection on its Unix socket.
//
// Both ends run the same release or neighbouring ones: fields are added, never
// renamed. Everything is JSON, one value per line.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// Spec is everything a shim needs to run one sandbox. It reaches the shim on
// its standard input only: it may hold secrets.
type Spec struct {
	ID       string `json:"id"`
	Dir      string `json:"dir"` // the sandbox's directory; exists
	Driver   string `json:"driver"`
	Hostname string `json:"hostname"`

	Runsc string `json:"runsc"` // host path of gVisor's runsc
	Agent string `json:"agent"` // host path of the static agent
	Image string `json:"image"` // host path of the EROFS file

	Kernel   string            `json:"kernel,omitempty"`   // host path, for microVMs
	Modules  string            `json:"modules,omitempty"`  // host path, for microVMs
	QEMU     string            `json:"qemu,omitempty"`     // host path of qemu-system-…, for microVMs
	Template *machine.Snapshot `json:"template,omitempty"` // what machines of this size start from
	Origin   *Origin           `json:"origin,omitempty"`   // set for a fork: what it continues from

	MemoryBytes int64 `json:"memoryBytes"`
	CPUs        int   `json:"cpus"`
	MaxPIDs     int64 `json:"maxPIDs,omitempty"`
	DiskBytes   int64 `json:"diskBytes"`

	ExtraRoots string `json:"extraRoots,omitempty"` // PEM; guest and gateway trust them beside their own
	MaxMessage int    `json:"maxMessage,omitempty"` // bytes in one message from a client; 0 is the default

	Personal
	Spare bool `json:"spare,omitempty"` // Personal is empty and comes with OpConfigure; until then nothing is reachable

	Gateway Gateway `json:"gateway"`

	StartTimeout time.Duration `json:"startTimeout"` // until the agent must have answered
	LogLevel     string        `json:"logLevel,omitempty"`
}

// Origin is what a forked sandbox continues from.
type Origin struct {
	SandboxID string           `json:"sandboxID"` // of the parent
	Snapshot  machine.Snapshot `json:"snapshot"`
	// Generation is the highest that the parent's link had.
	Generation uint32 `json:"generation"`
	// Image is the path of the parent's descriptor of its image, of which there
	// may be another by that name.
	Image string `json:"image,omitempty"`
	// Names is what the virtual addresses that the guest knows stand for.
	Names names.State `json:"names"`
}

// Gateway is what the operator says about the sandbox's network.
type Gateway struct {
	Exceptions    []netip.Prefix   `json:"exceptions,omitempty"`    // refused ranges that are allowed all the same
	Resolvers     []netip.AddrPort `json:"resolvers,omitempty"`     // empty: the host's
	OverridesFile string           `json:"overridesFile,omitempty"` // host overrides; see package upstream
	Strict        bool             `json:"strict,omitempty"`        // open TLS for every host
	Proxy         string           `json:"proxy,omitempty"`         // URL of an upstream proxy; may hold a password
	AuditFile     string           `json:"auditFile,omitempty"`     // empty keeps no audit
	AuditMax      int64            `json:"auditMax,omitempty"`      // bytes
}

// Personal is what one client's sandbox has of its own.
type Personal struct {
	Env      map[string]string `json:"env,omitempty"`
	AllowNet *[]string         `json:"allowNet,omitempty"` // nil is no list
	Ceiling  []string          `json:"ceiling,omitempty"`  // of the organisation; empty is none
	Secrets  Secrets           `json:"secrets,omitempty"`
}

// Secrets are the secrets of a sandbox by name. Their JSON form holds the
// values, no other form does.
type Secrets map[string]secret.Spec

// Format implements fmt.Formatter.
func (Secrets) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "(hidden)") }

// LogValue implements slog.LogValuer.
func (Secrets) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// Started is the shim's one line on standard output: the agent answered, or
// why it did not. After it, the shim closes its standard output.
type Started struct {
	Error string `json:"error,omitempty"`
	Agent string `json:"agent,omitempty"` // its version
	// TemplateFailed: the machine could not be started from the template; it
	// booted, unless there is an error.
	TemplateFailed bool `json:"templateFailed,omitempty"`
}

// Op is a request's kind.
type Op string

// The requests.
const (
	OpOpen      Op = "open"      // open a stream of the link; its bytes follow the reply
	OpStatus    Op = "status"    // reply holds the status
	OpWatch     Op = "watch"     // reply holds the status; a second line comes with the exit
	OpStop      Op = "stop"      // reply comes when everything is freed
	OpConfigure Op = "configure" // make a spare somebody's sandbox; reply comes when it is
	OpPolicy    Op = "policy"    // reply holds what the sandbox may reach, after the change that is asked for
	OpPause     Op = "pause"     // reply comes when the machine stands still; it is no error if it does already
	OpResume    Op = "resume"    // reply comes when the machine runs and its agent knows
	OpFork      Op = "fork"      // reply holds what children start from, valid until the connection is closed
)

// Request is the first line on a connection to the socket.
type Request struct {
	Op     Op              `json:"op"`
	Kind   link.Kind       `json:"kind,omitempty"`   // with open
	Header json.RawMessage `json:"header,omitempty"` // with open
	Reason string          `json:"reason,omitempty"` // with stop

	Personal *Personal  `json:"personal,omitempty"` // with configure
	Policy   *SetPolicy `json:"policy,omitempty"`   // with policy; nil only asks
	ToDisk   bool       `json:"toDisk,omitempty"`   // with pause: free the machine's memory, too
}

// SetPolicy replaces a sandbox's allow-list.
type SetPolicy struct {
	AllowNet *[]string `json:"allowNet"` // nil is no list
}

// Code tells apart the errors that the daemon acts on or passes on.
type Code string

// The codes.
const (
	CodePaused       Code = "PAUSED"         // the machine stands still: no stream can be opened, or it is on disk and can't be forked
	CodeCannotPause  Code = "CANNOT_PAUSE"   // the driver lacks the power; the error's text names both
	CodeCannotFork   Code = "CANNOT_FORK"    // likewise
	CodeSaveFailed   Code = "SAVE_FAILED"    // the machine goes on
	CodeTooManyForks Code = "TOO_MANY_FORKS" // as many as may be open at once are
)

// Reply answers a Request.
type Reply struct {
	Error  string  `json:"error,omitempty"`
	Code   Code    `json:"code,omitempty"`  // of the error; empty for most. With one, Error is written for the caller
	Cause  string  `json:"cause,omitempty"` // of an error with a code, for the log
	Status *Status `json:"status,omitempty"`
	Exit   *Exit   `json:"exit,omitempty"`

	Policy *api.NetworkPolicy `json:"policy,omitempty"`
	Pause  *Paused            `json:"pause,omitempty"` // with pause
	Fork   *Fork              `json:"fork,omitempty"`  // with fork
}

// Paused is what a pause took.
type Paused struct {
	Bytes      int64         `json:"bytes"` // written to disk
	StoodStill time.Duration `json:"stoodStill"`
}

// Fork is what children of a sandbox start from. It holds the secrets.
type Fork struct {
	Origin   Origin   `json:"origin"`
	Personal Personal `json:"personal"` // the parent's, without placeholders
}

// Power says whether a sandbox's machine runs.
type Power string

// The states of a machine.
const (
	PowerRunning   Power = "running"
	PowerPaused    Power = "paused"    // it stands still, in memory
	PowerSuspended Power = "suspended" // it is on disk
)

// Status is a shim's state, also kept in its state file. It holds no secret.
type Status struct {
	PID     int           `json:"pid"`
	Started time.Time     `json:"started"`
	Machine machine.State `json:"machine"`
	Power   Power         `json:"power"`
	CPUTime time.Duration `json:"cpuTime"` // of the machine, earlier lives of a suspended one included
	// CopyBytes is about what a copy of the machine takes in memory; of a
	// suspended one, what was written; 0 if that isn't known.
	CopyBytes int64 `json:"copyBytes,omitempty"`

	Exit *Exit `json:"exit,omitempty"`
}

// Exit is why a sandbox's machine ended: one of package api's stop reasons.
type Exit struct {
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// MaxLine bounds one line, in bytes.
const MaxLine = 8 << 20

// ErrLineTooLong is returned for a line over MaxLine.
var ErrLineTooLong = errors.New("line over the limit")

// Encode returns a value as a line. Whoever encodes a secret clears the line
// when it is written.
func Encode(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode line: %w", err)
	}
	if len(raw) >= MaxLine {
		clear(raw)
		return nil, ErrLineTooLong
	}
	line := append(raw, '\n')
	if &line[0] != &raw[0] {
		clear(raw)
	}
	return line, nil
}

// Write writes one value as a line, and keeps nothing of it.
func Write(w io.Writer, v any) error {
	line, err := Encode(v)
	if err != nil {
		return err
	}
	defer clear(line)
	_, err = w.Write(line)
	return err
}

// Read reads one line's value. Bytes behind the line stay in r.
func Read(r *bufio.Reader, v any) error {
	var line []byte
	defer func() { clear(line) }() // it may hold secrets
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxLine {
			return ErrLineTooLong
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode line: %w", err)
	}
	return nil
}
