// Package machine is the contract between a shim and the drivers that make
// isolated Linux machines.
//
// A machine runs one sandbox. Its lifetime is bounded by the process that
// started it: when the shim dies, however it dies, the machine dies too. The
// machine speaks to its shim over one byte stream, the link, and to the world
// only over one network card, whose host end is a file descriptor that the
// shim's gateway owns; the host's kernel never routes for it.
//
// Every driver passes the conformance suite in package machinetest.
package machine

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/atollhq/atoll/internal/link"
)

// Driver makes machines of one kind. Its methods may be called concurrently.
type Driver interface {
	// Info describes the driver. It does not change.
	Info() Info

	// Start makes a machine and runs its agent. It returns once the machine
	// executes; the agent may still be starting, so the first bytes on the
	// link can lag behind. Until Start has called s.AttachNIC, nothing that the
	// guest sends is read by anybody. When Start fails, or ctx ends before it returns,
	// nothing is left behind. After it returns, ctx has no influence.
	Start(ctx context.Context, s Spec) (Machine, error)

	// Reattach finds what a crashed shim left of a machine, so that it can be
	// destroyed. The machine it returns has no link and no network card, and
	// has usually exited already. It never fails because parts are missing.
	Reattach(ctx context.Context, st State) (Machine, error)
}

// Info describes a driver.
type Info struct {
	Name     string // "gvisor", "microvm", "fake"
	Features Features
}

// Features says which optional powers the driver and its machines have.
// Callers ask this instead of switching on the driver's name.
type Features struct {
	Pause bool // machines are Pausers
	Save  bool // machines are Savers and the driver is a Restorer: pause to disk, and fork
	Share bool // machines that continue from one saved with Leave share its memory until they change it
}

// Restorer is a driver's power to make machines that continue where a saved
// one stood.
type Restorer interface {
	// Restore is Start for a machine that continues from a snapshot. Memory
	// size, CPUs and disk size of s must be those of the saved machine;
	// everything else may differ. Several machines can be restored from one
	// snapshot at the same time, and none of them changes it, if it was saved
	// with Leave. One that was saved without is for one machine, which may take
	// its files over. Its agent abandons the link of its earlier life and
	// serves a new session on the new machine's Link. Once that agent has answered, the names of the
	// snapshot's files can be removed: what the machine needs of them, it has
	// open or has linked into its own directory.
	Restore(ctx context.Context, s Spec, from Snapshot) (Machine, error)
}

// Machine is one running machine. Its methods may be called concurrently.
type Machine interface {
	// State is what Reattach needs, and no secret.
	State() State

	// Link is the byte stream to the agent. It belongs to the caller, who
	// closes it. Nil after Reattach.
	Link() net.Conn

	// Exited delivers exactly one Exit and is then closed, so that a second
	// reader sees the zero Exit.
	Exited() <-chan Exit

	// Stop ends the machine: first by asking its agent's process to end, then,
	// when ctx ends or the driver's patience does, by force. It returns when
	// the machine has exited. It is idempotent.
	Stop(ctx context.Context) error

	// Destroy ends the machine by force if it still runs and frees everything
	// that Start made: processes, control groups, namespaces, files. It is
	// idempotent and works after a crash.
	Destroy(ctx context.Context) error
}

// Booter is a machine whose agent starts its system, which it must be told
// how.
type Booter interface {
	Boot() link.Boot
}

// Templated is a machine of a driver that starts from templates.
type Templated interface {
	// FromTemplate reports whether it did. Without, it booted.
	FromTemplate() bool
}

// Settler is the optional power to free what only the start of a machine
// needed.
type Settler interface {
	// Settle is called once, when the agent has answered.
	Settle() error
}

// StatsReader is the optional power to measure a machine.
type StatsReader interface {
	Stats(ctx context.Context) (Stats, error)
}

// Pauser is the optional power to stand still with everything in memory. Both
// methods are idempotent. Link and network card stay as they are.
type Pauser interface {
	// Pause returns when no guest instruction runs any more.
	Pause(ctx context.Context) error
	// Resume returns when the guest runs again.
	Resume(ctx context.Context) error
}

// Saver is the optional power to write down all that a machine is: memory,
// devices and the content of its disk.
type Saver interface {
	// Save writes the machine's state. The machine stands still meanwhile, for
	// as short as the driver can. With o.Leave it then goes on as if nothing
	// had happened, link and network card included; without, it has exited
	// with ExitSaved when Save returns. When Save fails the machine goes on,
	// and what is in o.Dir is worthless and of the caller to remove. A paused
	// machine can be saved, too; left, it is paused as before.
	Save(ctx context.Context, o SaveOptions) (Snapshot, error)
}

// SaveOptions say where a machine is saved to.
type SaveOptions struct {
	Dir   string // exists and is empty, on the file system of the machine's own directory
	Leave bool   // let the machine go on
}

// Snapshot is a saved machine. Its exported fields can be carried to another
// process on this host and used there while the snapshot is not released.
type Snapshot struct {
	Driver string `json:"driver"`
	Dir    string `json:"dir"`
	// Memory is the path of a descriptor of the process that saved, where the
	// guest's memory is kept for several machines to share; empty if it is in
	// Dir.
	Memory string `json:"memory,omitempty"`
	// Bytes were written to the host's disk.
	Bytes int64 `json:"bytes"`
	// StoodStill is for how long no guest instruction ran.
	StoodStill time.Duration `json:"stoodStill"`

	// Close frees what the saving process holds for the snapshot; nil if it
	// holds nothing. It removes no file.
	Close func() error `json:"-"`
}

// Stats is a measurement of what a machine uses on its host.
type Stats struct {
	MemoryBytes int64         // charged to the machine's control group
	CopyBytes   int64         // about what a copy of the guest's memory takes; 0 if that isn't known
	CPUTime     time.Duration // since start
	Processes   int           // host processes and threads
}

// Spec describes a machine to make. It is complete: a driver reads nothing
// else.
type Spec struct {
	ID       string // sandbox id; names the control group and runtime state
	Dir      string // exists, private to this machine, removed by Destroy
	Hostname string

	Image Image
	Agent string // host path of the static agent binary, the guest's PID 1

	// Template is a machine that was saved before anything of a sandbox was in
	// it, for drivers that start faster from one; nil starts cold.
	Template *Snapshot

	MemoryBytes int64 // for the guest; the driver adds its own overhead
	CPUs        int
	MaxPIDs     int64 // host-side bound on processes and threads; 0 is the driver's default
	DiskBytes   int64 // bound on what the guest can write to its root

	Network Network

	// AttachNIC is given the host end of the network card, once, before Start
	// or Restore returns. The callee owns the file from then on.
	AttachNIC func(NIC) error
}

// Image is the read-only root file system, and the kernel that fits it.
type Image struct {
	File    string // host path of an EROFS file
	Kernel  string // host path of a Linux kernel; for drivers that boot one
	Modules string // host path of a cpio archive of the modules that the kernel needs to start
}

// Network is the guest's view of its network card.
type Network struct {
	MTU         int
	GuestMAC    net.HardwareAddr
	GatewayMAC  net.HardwareAddr
	Guest4      netip.Prefix // guest address and prefix length
	Gateway4    netip.Addr
	Guest6      netip.Prefix
	Gateway6    netip.Addr
	Nameservers []netip.Addr
}

// NICKind says how frames are read from a NIC's file.
type NICKind string

// The kinds of NIC.
const (
	NICTap    NICKind = "tap"    // one Ethernet frame per read and write
	NICStream NICKind = "stream" // each frame behind its length, 32 bit big endian
)

// NIC is the host end of a machine's network card.
type NIC struct {
	Kind NICKind
	File *os.File
	MTU  int
	// NoChecksums is set where the guest's stack neither computes nor verifies
	// the checksums of TCP and UDP: packets stay in this machine's memory.
	NoChecksums bool
}

// State is enough to find a machine again. Detail belongs to the driver.
type State struct {
	Driver string          `json:"driver"`
	ID     string          `json:"id"`
	Dir    string          `json:"dir"`
	Detail json.RawMessage `json:"detail,omitempty"`
}

// ExitReason says why a machine ended.
type ExitReason string

// The reasons.
const (
	ExitStopped ExitReason = "stopped" // on request
	ExitSaved   ExitReason = "saved"   // on request, after Save
	ExitOOM     ExitReason = "oom"     // it reached its memory limit
	ExitCrashed ExitReason = "crashed" // by itself: agent gone, kernel panic, killed from outside
)

// Exit is the end of a machine.
type Exit struct {
	Reason ExitReason
	Detail string // for the log and the operator; bounded, may hold guest text
}
