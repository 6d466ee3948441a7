package agent

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/atollhq/atoll/internal/link"
)

// self is who the machine is, as code inside may know it.
type self struct {
	SandboxID  string `json:"sandboxId"`
	ForkedFrom string `json:"forkedFrom,omitempty"`
	Generation uint32 `json:"generation"`
}

const (
	sandboxIDVariable = "ATOLL_SANDBOX_ID"
	identityFile      = "run/atoll/identity.json"
	bootIDFile        = "run/atoll/boot_id"
	kernelBootID      = "proc/sys/kernel/random/boot_id"
)

var machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// resume makes a machine that stood still one that goes on: in the running
// session after a pause, as the beginning of a session after a restoration.
// Processes that were stopped go on as the last thing, when all is in place.
// The agent's lock is held. What it returns runs hooks, which may need other
// processes to run.
func (s *session) resume(r link.Resume) (then func(), err error) {
	a := s.agent
	switch {
	case !a.configured:
		return nil, errNotConfigured
	case s.isReady() && r.Generation != s.generation:
		return nil, fmt.Errorf("the session is of generation %d: resumed as %d", s.generation, r.Generation)
	case !s.isReady() && r.Generation <= a.generation:
		return nil, fmt.Errorf("the last session was of generation %d: resumed as %d", a.generation, r.Generation)
	}
	a.stir(r.Entropy)
	setClock(a.opts.Host, r.TimeUnixNs, a.log)
	if r.CutNetwork {
		if err := a.opts.Host.CutNetwork(); err != nil {
			a.log.Warn("cut connections", "error", err)
		}
	}
	if s.isReady() {
		return nil, a.thaw()
	}
	a.self.Generation = r.Generation
	event, machineID := eventResume, ""
	if id := r.Identity; id != nil {
		event, machineID = eventFork, id.MachineID
		if err := a.become(*id); err != nil {
			return nil, err
		}
	}
	if err := a.introduce(machineID); err != nil {
		return nil, err
	}
	if err := a.thaw(); err != nil {
		return nil, err
	}
	s.begin(r.Generation)
	who := a.self
	return func() { a.runHooks(event, who) }, nil
}

// stir gives the kernel random bytes: machines that continue from one snapshot
// would draw the same ones.
func (a *Agent) stir(entropy []byte) {
	if len(entropy) == 0 {
		return
	}
	if err := a.opts.Host.AddEntropy(entropy); err != nil {
		a.log.Info("add entropy", "error", err) // not every kind of machine has a pool of its own
	}
	clear(entropy)
}

// become makes the machine another sandbox's.
func (a *Agent) become(id link.Identity) error {
	if !machineIDForm.MatchString(id.MachineID) {
		return fmt.Errorf("machine id %q is not 32 hexadecimal digits", id.MachineID)
	}
	if err := setHostname(a.opts.Root, a.opts.Host, id.Hostname, a.log); err != nil {
		return err
	}
	if err := a.trust(id.ExtraRoots); err != nil {
		return err
	}
	if err := a.regive(id.SandboxID, id.Env); err != nil {
		return err
	}
	a.self.SandboxID, a.self.ForkedFrom = id.SandboxID, id.ForkedFrom
	return nil
}

// regive replaces the variables that the machine was given. Where it is given
// the same as before, a change that code inside made stays.
func (a *Agent) regive(sandboxID string, vars map[string]string) error {
	env := a.parts.procs.Env()
	for name, old := range a.given {
		if _, again := vars[name]; again {
			continue
		}
		if now, _ := env.Get(name); now == old {
			if err := env.Delete(name); err != nil {
				return err
			}
		}
		delete(a.given, name)
	}
	changed := map[string]string{}
	for name, value := range vars {
		if old, had := a.given[name]; !had || old != value {
			changed[name] = value
		}
	}
	if _, own := vars[sandboxIDVariable]; !own {
		if err := env.Set(sandboxIDVariable, sandboxID); err != nil {
			return err
		}
	}
	return a.give(changed)
}

// introduce lets code inside know who the machine is. An empty machine id
// stays what it was, and with it the id of the boot.
func (a *Agent) introduce(machineID string) error {
	if machineID != "" {
		if !machineIDForm.MatchString(machineID) {
			return fmt.Errorf("machine id %q is not 32 hexadecimal digits", machineID)
		}
		if err := writeFile(a.opts.Root, "etc/machine-id", machineID+"\n"); err != nil {
			return err
		}
		if err := a.newBootID(); err != nil {
			a.log.Warn("set boot id", "error", err)
		}
	}
	text, err := json.Marshal(a.self)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return replaceFile(a.opts.Root, identityFile, append(text, '\n'))
}

// newBootID hides the kernel's boot id, where it has one, behind a new one:
// a kernel that continues from a snapshot still has the snapshot's.
func (a *Agent) newBootID() error {
	shown := filepath.Join(a.opts.Root, kernelBootID)
	if _, err := os.Stat(shown); err != nil {
		return nil
	}
	if err := replaceFile(a.opts.Root, bootIDFile, []byte(uuid()+"\n")); err != nil {
		return err
	}
	if err := a.opts.Host.Unmount(shown); err != nil {
		return err
	}
	return a.opts.Host.Bind(filepath.Join(a.opts.Root, bootIDFile), shown)
}

// uuid draws a UUID of version 4 (RFC 9562, section 5.4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// replaceFile gives a file new content in one step, so that whoever watches
// or reads it never sees half of it.
func replaceFile(root, name string, content []byte) error {
	path := filepath.Join(root, name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
