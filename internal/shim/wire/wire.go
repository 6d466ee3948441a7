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
	"net/netip"
	"time"

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

	MemoryBytes int64 `json:"memoryBytes"`
	CPUs        int   `json:"cpus"`
	MaxPIDs     int64 `json:"maxPIDs,omitempty"`
	DiskBytes   int64 `json:"diskBytes"`

	Env        map[string]string `json:"env,omitempty"`
	ExtraRoots string            `json:"extraRoots,omitempty"` // PEM
	MaxMessage int               `json:"maxMessage,omitempty"` // bytes in one message from a client; 0 is the default

	Gateway Gateway `json:"gateway"`

	StartTimeout time.Duration `json:"startTimeout"` // until the agent must have answered
	LogLevel     string        `json:"logLevel,omitempty"`
}

// Gateway is what the operator says about the sandbox's network.
type Gateway struct {
	Exceptions    []netip.Prefix   `json:"exceptions,omitempty"`    // refused ranges that are allowed all the same
	Resolvers     []netip.AddrPort `json:"resolvers,omitempty"`     // empty: the host's
	OverridesFile string           `json:"overridesFile,omitempty"` // host overrides; see package upstream
}

// Started is the shim's one line on standard output: the agent answered, or
// why it did not. After it, the shim closes its standard output.
type Started struct {
	Error string `json:"error,omitempty"`
	Agent string `json:"agent,omitempty"` // its version
}

// Op is a request's kind.
type Op string

// The requests.
const (
	OpOpen   Op = "open"   // open a stream of the link; its bytes follow the reply
	OpStatus Op = "status" // reply holds the status
	OpWatch  Op = "watch"  // reply holds the status; a second line comes with the exit
	OpStop   Op = "stop"   // reply comes when everything is freed
)

// Request is the first line on a connection to the socket.
type Request struct {
	Op     Op              `json:"op"`
	Kind   link.Kind       `json:"kind,omitempty"`   // with open
	Header json.RawMessage `json:"header,omitempty"` // with open
	Reason string          `json:"reason,omitempty"` // with stop
}

// Reply answers a Request.
type Reply struct {
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
	Exit   *Exit   `json:"exit,omitempty"`
}

// Status is a shim's state, also kept in its state file. It holds no secret.
type Status struct {
	PID     int           `json:"pid"`
	Started time.Time     `json:"started"`
	Machine machine.State `json:"machine"`
	Exit    *Exit         `json:"exit,omitempty"`
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

// Write writes one value as a line.
func Write(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	if len(raw) >= MaxLine {
		return ErrLineTooLong
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

// Read reads one line's value. Bytes behind the line stay in r.
func Read(r *bufio.Reader, v any) error {
	var line []byte
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
