package link

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
)

const maxControl = 4 << 20 // bytes in one control message

// Config personalises a machine: the first message on the control stream,
// from shim to agent. It holds no secret.
type Config struct {
	Generation  uint32            `json:"generation"`
	SandboxID   string            `json:"sandboxID,omitempty"` // told to every process
	Hostname    string            `json:"hostname"`
	Env         map[string]string `json:"env,omitempty"`        // added to every process's environment
	ExtraRoots  string            `json:"extraRoots,omitempty"` // PEM certificates for the trust store
	Nameservers []string          `json:"nameservers,omitempty"`
	MemoryBytes int64             `json:"memoryBytes"` // the guest's limit; the agent ends the largest process before it is reached
	TimeUnixNs  int64             `json:"timeUnixNs"`  // the host's clock, for machines whose own stood still
	UserID      uint32            `json:"uid"`         // of the user that runs code
	GroupID     uint32            `json:"gid"`         //
	User        string            `json:"user"`        //
	Home        string            `json:"home"`        // and its working directory
	MaxMessage  int               `json:"maxMessage"`  // bytes, from client to agent

	Entropy   []byte `json:"entropy,omitempty"`   // random; goes into the kernel's pool before anything else happens
	MachineID string `json:"machineID,omitempty"` // 32 hexadecimal digits
	Boot      *Boot  `json:"boot,omitempty"`      // set for machines whose agent starts the system
}

// Boot is what an agent that is the machine's first program does before
// anything else: it mounts the root and configures the network card.
type Boot struct {
	Root       string       `json:"root"`    // serial of the block device with the read-only EROFS root
	Disk       string       `json:"disk"`    // serial of the block device with the ext4 file system for all that is written
	CardMAC    string       `json:"cardMAC"` // hardware address of the network card
	MTU        int          `json:"mtu"`
	Guest4     netip.Prefix `json:"guest4"`
	Gateway4   netip.Addr   `json:"gateway4"`
	Guest6     netip.Prefix `json:"guest6"`
	Gateway6   netip.Addr   `json:"gateway6"`
	GatewayMAC string       `json:"gatewayMAC"`
}

// Resume tells an agent that its machine stood still: a message on the
// control stream of the running session after a pause, and the first message
// of a new session after the machine was restored. It is answered by Ready.
type Resume struct {
	Generation uint32 `json:"generation"` // of the session's streams from now on
	TimeUnixNs int64  `json:"timeUnixNs"`
	Entropy    []byte `json:"entropy"`
	// CutNetwork has the guest's connections to the outside closed: their
	// other ends are gone.
	CutNetwork bool `json:"cutNetwork,omitempty"`
	// Identity is set when the machine continues as another sandbox.
	Identity *Identity `json:"identity,omitempty"`
}

// Identity is what a forked machine gets of its own.
type Identity struct {
	SandboxID  string `json:"sandboxID"`
	ForkedFrom string `json:"forkedFrom"` // the parent's sandbox id
	Hostname   string `json:"hostname"`
	MachineID  string `json:"machineID"` // 32 hexadecimal digits
	// Env is what its processes are given from now on, its own placeholders
	// among it, in place of what the parent's were given. What code in the
	// parent has changed since stays changed, unless it differs from what the
	// parent was given.
	Env        map[string]string `json:"env,omitempty"`
	ExtraRoots string            `json:"extraRoots,omitempty"` // all PEM certificates for the trust store, in place of the parent's; empty is none
}

// Freeze tells an agent to stop all processes but itself before its machine is
// saved for others to continue from, or to let them go on. In those others,
// they go on with the Resume. An agent that hears nothing more in its session
// lets them go on after a while. It is answered by Ready.
type Freeze struct {
	Frozen bool `json:"frozen"`
}

// Update adds to the configuration of a machine in which nothing but the agent
// has run: a later message on the control stream. It holds no secret.
type Update struct {
	Env        map[string]string `json:"env,omitempty"`        // set for every process
	ExtraRoots string            `json:"extraRoots,omitempty"` // all PEM certificates for the trust store, in place of Config's; empty leaves them
}

// ToAgent is a control message as the agent reads it: a Config, or whichever
// of the others is set.
type ToAgent struct {
	Config
	Update *Update `json:"update,omitempty"`
	Resume *Resume `json:"resume,omitempty"`
	Freeze *Freeze `json:"freeze,omitempty"`
}

// SendResume writes a Resume.
func SendResume(w io.Writer, r Resume) error {
	return SendControl(w, struct {
		Resume Resume `json:"resume"`
	}{r})
}

// SendFreeze writes a Freeze.
func SendFreeze(w io.Writer, f Freeze) error {
	return SendControl(w, struct {
		Freeze Freeze `json:"freeze"`
	}{f})
}

// SendUpdate writes an Update.
func SendUpdate(w io.Writer, u Update) error {
	return SendControl(w, struct {
		Update Update `json:"update"`
	}{u})
}

// Ready is the agent's answer to each of them: it serves from now on.
type Ready struct {
	Version string `json:"version"`
	Error   string `json:"error,omitempty"` // why it can't; set alone
}

// RPCHeader is the header of a KindRPC stream.
type RPCHeader struct {
	// MaxMessage bounds what the agent may send in one message, in bytes:
	// what this client's WebSocket takes.
	MaxMessage int `json:"maxMessage"`
}

// DialHeader is the header of a KindDial stream.
type DialHeader struct {
	Port uint16 `json:"port"`
}

// SendControl writes one control message as JSON.
func SendControl(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode control message: %w", err)
	}
	return WriteMessage(w, b)
}

// ReceiveControl reads one control message of at most 4 MiB.
func ReceiveControl(r io.Reader, v any) error {
	b, err := NewFrameReader(r).ReadMessage(maxControl)
	if err != nil {
		return fmt.Errorf("read control message: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode control message: %w", err)
	}
	return nil
}
