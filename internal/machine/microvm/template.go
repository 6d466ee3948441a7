package microvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/process"
)

// A template is a machine that was saved when its agent had loaded the
// kernel's modules and awaited the first hello: nothing of an image, a disk or
// a sandbox is in it. It is made once for each memory size and number of
// processors, and again when anything changes that is in it.

// The files of a template, beside those of every snapshot.
const (
	templateMeta   = "template.json"
	templateFormat = 1
	buildPrefix    = ".build-" // of directories that are not complete
)

// blankDisk is an empty file system that a template brings along: a copy is
// made faster than a new one.
func blankDisk(dir string) string { return filepath.Join(dir, "blank.raw") }

// maxStored bounds the templates on disk: clients choose sizes, and each has its
// own.
const maxStored = 16

// maxResident bounds the templates whose memory is held at a time, and
// keepResident is how long one that was used is held at least: machines may be
// about to open it. Where clients ask for many sizes, mostResident are held;
// a machine that comes too late boots.
const (
	maxResident  = 4
	mostResident = 12
	keepResident = 2 * time.Minute
)

// Templates makes and keeps the templates of one host. Its methods may be
// called concurrently.
type Templates struct {
	dir    string
	driver *Driver
	log    *slog.Logger

	making context.Context // ended by Close
	stop   context.CancelFunc
	makers sync.WaitGroup

	mu       sync.Mutex
	resident map[string]*resident // by key
	digests  map[string]string    // of files, by identity
}

// resident is a template whose memory is there for machines to map.
type resident struct {
	ready    chan struct{} // closed when the following are set
	snapshot machine.Snapshot
	filled   int64 // of the memory at first, bytes
	err      error
	used     time.Time // guarded by Templates.mu
	made     time.Time // when it was asked for first
}

// NewTemplates keeps templates in a directory that no other process makes
// templates in. What an earlier process did not finish is removed.
func NewTemplates(dir string, driver *Driver, log *slog.Logger) (*Templates, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make template directory: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, buildPrefix+"*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return nil, fmt.Errorf("remove unfinished templates: %w", err)
	}
	t := &Templates{dir: dir, driver: driver, log: log, resident: map[string]*resident{}, digests: map[string]string{}}
	t.making, t.stop = context.WithCancel(context.Background())
	return t, t.freeGroups()
}

// groupPrefix begins the names of the control groups of machines that become
// templates; key and process id follow. Servers of one host make the same
// templates.
const groupPrefix = "template-"

// freeGroups removes the control groups of killed processes, whose machines
// died with them.
func (t *Templates) freeGroups() error {
	var err error
	for _, name := range cgroup.Leftovers() {
		rest, ok := strings.CutPrefix(name, groupPrefix)
		_, pid, _ := strings.Cut(rest, "-")
		if maker, bad := strconv.Atoi(pid); !ok || bad != nil || unix.Kill(maker, 0) == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(t.making, process.Patience)
		err = errors.Join(err, cgroup.Open(name).Remove(ctx))
		cancel()
	}
	if err != nil {
		return fmt.Errorf("free unfinished templates: %w", err)
	}
	return nil
}

// Get returns the template for machines like s, of which only image, agent,
// sizes and network count. The first call for a size boots a machine, or reads
// what an earlier process saved; others for that size wait for it.
func (t *Templates) Get(ctx context.Context, s machine.Spec) (*machine.Snapshot, error) {
	key, err := t.key(s)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	r, ok := t.resident[key]
	if ok && r.grown(s.MemoryBytes) {
		r.retire()
		ok = false
	}
	if !ok {
		r = &resident{ready: make(chan struct{}), made: time.Now()}
		t.resident[key] = r
		t.makers.Go(func() { t.provide(t.making, key, s, r) })
	}
	r.used = time.Now()
	t.mu.Unlock()
	select {
	case <-r.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("await template: %w", ctx.Err())
	}
	if r.err != nil {
		return nil, r.err
	}
	snapshot := r.snapshot
	snapshot.Close = nil // it is not the caller's
	return &snapshot, nil
}

// Discard forgets a template that a machine could not be started from. The
// next Get makes it anew.
func (t *Templates) Discard(s machine.Snapshot) error {
	key := filepath.Base(s.Dir)
	t.mu.Lock()
	r := t.resident[key]
	if r == nil || !r.isReady() || r.snapshot.Memory != s.Memory || r.snapshot.MemoryID != s.MemoryID {
		t.mu.Unlock()
		return nil // it was discarded already
	}
	delete(t.resident, key)
	t.mu.Unlock()
	return errors.Join(r.release(), removeTemplate(t.dir, key))
}

// Close ends the making of templates and gives their memory back. Machines
// that run keep what they have. Get must not be called any more.
func (t *Templates) Close() error {
	t.stop()
	t.makers.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	for _, r := range t.resident {
		err = errors.Join(err, r.release())
	}
	clear(t.resident)
	return err
}

func (r *resident) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// grown reports whether machines have filled so many holes of the memory that
// a fresh copy is worth its making; see Driver.limits. There are no more than
// two of a size: the older one is retired by the time that this one may be. It
// must be called with the lock held.
func (r *resident) grown(bytes int64) bool {
	if !r.isReady() || time.Since(r.made) < keepResident {
		return false
	}
	var st unix.Stat_t
	if r.err != nil || unix.Stat(r.snapshot.Memory, &st) != nil {
		return false
	}
	return st.Blocks*512 > r.filled+bytes/2
}

// retire gives the memory back when no machine can be about to open it any
// more.
func (r *resident) retire() {
	time.AfterFunc(keepResident, func() { _ = r.release() })
}

func (r *resident) release() error {
	if r.snapshot.Close == nil {
		return nil
	}
	return r.snapshot.Close()
}

// Making a template is a boot, which takes seconds without KVM, on a busy host
// many. One that hangs is tried again.
const (
	buildAttempts = 2
	buildPatience = 90 * time.Second // each
)

// provide makes a template's memory available.
func (t *Templates) provide(ctx context.Context, key string, s machine.Spec, r *resident) {
	r.snapshot, r.err = t.open(ctx, key)
	if r.err != nil {
		if !errors.Is(r.err, fs.ErrNotExist) {
			t.log.Warn("a saved template is of no use; it is made again", "key", key, "error", r.err)
		}
		began := time.Now()
		for range buildAttempts {
			if r.err = t.build(ctx, key, s); r.err == nil {
				break
			}
		}
		if r.err == nil {
			r.snapshot, r.err = t.open(ctx, key)
		}
		if r.err == nil {
			t.trim()
			t.log.Info("made a template", "memory_mib", s.MemoryBytes>>20, "cpus", s.CPUs, "took", time.Since(began))
		}
	}
	var st unix.Stat_t
	if r.err == nil && unix.Stat(r.snapshot.Memory, &st) == nil {
		r.filled = st.Blocks * 512
	}
	t.mu.Lock()
	if r.err != nil {
		delete(t.resident, key) // the next caller tries again
	}
	t.evict()
	t.mu.Unlock()
	close(r.ready)
}

// evict gives back the memory of what was not used for longest. It must be
// called with mu held.
func (t *Templates) evict() {
	for len(t.resident) > maxResident {
		oldest, since := "", time.Now()
		if len(t.resident) <= mostResident {
			since = since.Add(-keepResident)
		}
		for key, r := range t.resident {
			if r.isReady() && r.snapshot.Close != nil && r.used.Before(since) {
				oldest, since = key, r.used
			}
		}
		if oldest == "" {
			return
		}
		if err := t.resident[oldest].release(); err != nil {
			t.log.Warn("give back a template's memory", "error", err)
		}
		delete(t.resident, oldest)
	}
}

// trim removes the templates that were not opened for longest, beyond
// maxStored, but for those that are held.
func (t *Templates) trim() {
	type stored struct {
		key  string
		used time.Time
	}
	entries, err := os.ReadDir(t.dir)
	var all []stored
	for _, entry := range entries {
		info, gone := entry.Info()
		if gone == nil && entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			all = append(all, stored{entry.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b stored) int { return b.used.Compare(a.used) })
	for _, old := range all[min(maxStored, len(all)):] {
		t.mu.Lock()
		_, held := t.resident[old.key]
		t.mu.Unlock()
		if !held {
			err = errors.Join(err, removeTemplate(t.dir, old.key))
		}
	}
	if err != nil {
		t.log.Warn("remove templates that are not used", "error", err)
	}
}

// open reads a template from disk and holds its memory.
func (t *Templates) open(ctx context.Context, key string) (machine.Snapshot, error) {
	dir := filepath.Join(t.dir, key)
	meta, err := readTemplate(dir)
	if err != nil {
		return machine.Snapshot{}, err
	}
	file, err := os.Open(filepath.Join(dir, savedMemory))
	if err != nil {
		return machine.Snapshot{}, fmt.Errorf("open template: %w", err)
	}
	defer func() { _ = file.Close() }()
	if err := checkSize(file, meta.MemoryBytes); err != nil {
		return machine.Snapshot{}, fmt.Errorf("open template: %w", err)
	}
	memory, err := fillMemory(ctx, file)
	if err != nil {
		return machine.Snapshot{}, err
	}
	digest, err := digestTemplate(dir, memory)
	if err == nil && digest != meta.Digest {
		err = errors.New("its content is not what was saved")
	}
	if err != nil {
		return machine.Snapshot{}, errors.Join(fmt.Errorf("open template: %w", err), memory.Close())
	}
	snapshot := machine.Snapshot{Driver: Name, Dir: dir, Close: memory.Close}
	snapshot.Memory, snapshot.MemoryID, err = share(memory)
	if err == nil {
		now := time.Now()
		err = os.Chtimes(dir, now, now) // see trim
	}
	if err != nil {
		return machine.Snapshot{}, errors.Join(fmt.Errorf("open template: %w", err), memory.Close())
	}
	return snapshot, nil
}

// build boots a machine, saves it and puts it into place, whole.
func (t *Templates) build(ctx context.Context, key string, s machine.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, buildPatience)
	defer cancel()
	dir := filepath.Join(t.dir, buildPrefix+key)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := t.driver.saveTemplate(ctx, s, dir); err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	meta := Template{
		Format: templateFormat, Key: key, MemoryBytes: s.MemoryBytes, CPUs: s.CPUs, Accel: t.driver.Accel, Created: time.Now().UTC(),
	}
	var err error
	if meta.Kernel, err = t.digest(s.Image.Kernel); err == nil {
		meta.Bytes, err = usedBytes(dir)
	}
	if err == nil {
		meta.Digest, err = digestSaved(ctx, dir)
	}
	if err == nil {
		err = meta.write(dir)
	}
	if err == nil {
		err = removeTemplate(t.dir, key)
	}
	if err == nil {
		err = os.Rename(dir, filepath.Join(t.dir, key))
	}
	if err != nil {
		return fmt.Errorf("make template: %w", err)
	}
	return nil
}

// saveTemplate boots a machine and saves it into dir.
func (d *Driver) saveTemplate(ctx context.Context, s machine.Spec, dir string) (err error) {
	s.ID, s.Dir = groupPrefix+filepath.Base(dir)[len(buildPrefix):]+"-"+strconv.Itoa(os.Getpid()), filepath.Join(dir, "machine")
	s.Template = nil
	var card *os.File
	s.AttachNIC = func(nic machine.NIC) error { card = nic.File; return nil } // nobody reads it: it is never up
	defer func() {
		if card != nil {
			_ = card.Close()
		}
	}()
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		return err
	}
	m := newMachine(d, s.ID, s.Dir)
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), process.Patience)
		defer cancel()
		if m.link != nil {
			_ = m.link.Close()
		}
		err = errors.Join(err, m.Destroy(cleanup))
	}()
	if err := m.boot(ctx, s); err != nil {
		return err
	}
	if err := link.Probe(ctx, m.link); err != nil {
		return m.because(err)
	}
	if err := m.halt(ctx); err != nil {
		return err
	}
	if err := m.saveState(ctx, dir); err != nil {
		return err
	}
	if err := saveFile(ctx, filepath.Join(dir, savedMemory), m.memory); err != nil {
		return err
	}
	return makeBaseDisk(ctx, blankDisk(dir), "", s.DiskBytes)
}

// saveFile copies a machine's memory file to disk.
func saveFile(ctx context.Context, path string, memory *os.File) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	c, err := newFileCopier(file, memory)
	if err != nil {
		return err
	}
	if err := file.Truncate(c.bytes); err != nil {
		return err
	}
	return c.copyAll(ctx)
}
