// Package layout names every file and directory that Atoll keeps on disk.
//
// Names are API: an operator's backup, a newer daemon and a running shim all
// rely on them. Nothing outside this package joins such a path by hand.
package layout

import (
	"path/filepath"
	"strconv"
)

// Data is the data directory of one server: what must survive a reboot.
type Data struct{ Dir string }

// Database is the SQLite store.
func (d Data) Database() string { return filepath.Join(d.Dir, "atoll.db") }

// TokenFile holds the organisation token made on first start, mode 0600.
func (d Data) TokenFile() string { return filepath.Join(d.Dir, "token") }

// EndpointFile holds the base URL of the running server, for `atoll env`.
func (d Data) EndpointFile() string { return filepath.Join(d.Dir, "endpoint") }

// AuditLog is the record of what was done by whom; ".1" is the one before.
func (d Data) AuditLog() string { return filepath.Join(d.Dir, "audit.log") }

// Audits holds the records of the sandboxes' networks, which stay a while
// after their sandboxes have ended.
func (d Data) Audits() string { return filepath.Join(d.Dir, "audit") }

// Audit is the record of one sandbox's network, as lines of JSON.
func (d Data) Audit(id string) string { return filepath.Join(d.Audits(), id+".jsonl") }

// OlderAudit is what Audit was before it reached its limit.
func (d Data) OlderAudit(id string) string { return Older(d.Audit(id)) }

// Older is what a log that reached its limit is renamed to.
func Older(log string) string { return log + ".1" }

// LockFile is locked by the one daemon that owns the directory.
func (d Data) LockFile() string { return filepath.Join(d.Dir, "lock") }

// Images is where images are kept when no image directory is configured.
func (d Data) Images() string { return filepath.Join(d.Dir, "images") }

// Templates holds one directory per machine that others start from.
func (d Data) Templates() string { return filepath.Join(d.Dir, "templates") }

// Sandboxes holds one directory per live sandbox.
func (d Data) Sandboxes() string { return filepath.Join(d.Dir, "sandboxes") }

// Sandbox is the directory of one live sandbox.
func (d Data) Sandbox(id string) Sandbox {
	return Sandbox{Dir: filepath.Join(d.Sandboxes(), id)}
}

// Sandbox is the private directory of one live sandbox, mode 0700. It is made
// before the shim starts and removed when the sandbox is destroyed.
type Sandbox struct{ Dir string }

// Socket is the shim's Unix socket.
func (s Sandbox) Socket() string { return filepath.Join(s.Dir, "shim.sock") }

// State is what the shim wrote about itself and its machine, as JSON. It
// holds no secrets.
func (s Sandbox) State() string { return filepath.Join(s.Dir, "state.json") }

// Log is the shim's log.
func (s Sandbox) Log() string { return filepath.Join(s.Dir, "shim.log") }

// Machine is the driver's own directory.
func (s Sandbox) Machine() string { return filepath.Join(s.Dir, "machine") }

// Saved is where a suspended machine is kept, with all of its memory; each
// time it is saved has a number. The files are private to root.
func (s Sandbox) Saved(n int) string { return filepath.Join(s.Dir, "saved", strconv.Itoa(n)) }

// Fork is where a machine is kept for other sandboxes to continue from.
func (s Sandbox) Fork(n int) string { return filepath.Join(s.Dir, "forks", strconv.Itoa(n)) }

// Image names the files of one image below an image directory.
type Image struct{ Dir, Name string }

// File is the EROFS root file system.
func (i Image) File() string { return filepath.Join(i.Dir, i.Name+".erofs") }

// Kernel is the Linux that microVMs boot.
func (i Image) Kernel() string { return filepath.Join(i.Dir, i.Name+".vmlinuz") }

// Modules is a cpio archive of the kernel modules that microVMs start with.
func (i Image) Modules() string { return filepath.Join(i.Dir, i.Name+".modules") }

// Metadata describes them, as JSON.
func (i Image) Metadata() string { return filepath.Join(i.Dir, i.Name+".json") }

// Lock is locked while the image is built.
func (i Image) Lock() string { return filepath.Join(i.Dir, "."+i.Name+".lock") }

// Work is the private directory of a build, removed at its end.
func (i Image) Work() string { return filepath.Join(i.Dir, ".build-"+i.Name) }
