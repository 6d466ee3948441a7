package microvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	chunk      = 256 << 10 // bytes looked at and copied at a time: they stay in a processor's cache
	maxCopying = 4         // processors; more of them wait for the same memory
)

// copier copies what one machine's memory holds to a file that is empty so
// far; pages of zeros stay holes. It may do so twice: ahead, of a machine that
// runs, and then of the same machine when it stands still, where it writes
// only the pages that have changed.
//
// The process is asked only for pages that are its own. Asking for others
// would make the pages of the file beneath it be read in, or worse, filled.
type copier struct {
	out, base *os.File
	bytes     int64
	written   atomic.Int64
	seed      maphash.Seed
	sums      []uint64 // of the pages that were copied ahead, 0 for zeros; nil if none were

	// Of the process; nil if the base is all that is of interest.
	pid     int
	private bool // the process's view differs from the base
	pagemap *os.File
	address int64 // of the view in the process
}

// newCopier copies the memory of that size which a process has mapped from the
// base. The process may be hostile, and have the base open.
func newCopier(out *os.File, pid int, base *os.File, bytes int64, private bool) (*copier, error) {
	c, err := newFileCopier(out, base)
	if err == nil && c.bytes != bytes {
		err = fmt.Errorf("copy memory: it has become %d bytes, of %d", c.bytes, bytes)
	}
	if err != nil {
		return nil, err
	}
	c.pid, c.private = pid, private
	dir := "/proc/" + strconv.Itoa(pid)
	if c.address, err = findMapping(dir+"/maps", base, c.bytes); err != nil {
		return nil, fmt.Errorf("copy memory: %w", err)
	}
	if c.pagemap, err = os.Open(dir + "/pagemap"); err != nil {
		return nil, fmt.Errorf("copy memory: %w", err)
	}
	return c, nil
}

// newFileCopier copies a file.
func newFileCopier(out, base *os.File) (*copier, error) {
	info, err := base.Stat()
	if err != nil {
		return nil, fmt.Errorf("copy memory: %w", err)
	}
	return &copier{out: out, base: base, bytes: info.Size()}, nil
}

func (c *copier) close() {
	if c.pagemap != nil {
		_ = c.pagemap.Close()
	}
}

// copyAhead makes out nearly what the memory of a machine is that runs.
func (c *copier) copyAhead(ctx context.Context) error {
	c.seed, c.sums = maphash.MakeSeed(), make([]uint64, c.bytes/pageSize)
	return c.copyAll(ctx)
}

// copyAll makes out what the memory is. One call at a time.
func (c *copier) copyAll(ctx context.Context) error {
	n := min(runtime.NumCPU(), maxCopying)
	defer withProcessors(n)()
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range n {
		g.Go(func() error {
			s := new(scratch)
			for at := next.Add(chunk) - chunk; at < c.bytes; at = next.Add(chunk) - chunk {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := c.copyChunk(s, at, min(chunk, c.bytes-at)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy memory: %w", err)
	}
	return nil
}

// withProcessors lets this process, which may be bound to one, use several
// processors until done is called.
func withProcessors(n int) (done func()) {
	had := runtime.GOMAXPROCS(0)
	if had >= n {
		return func() {}
	}
	runtime.GOMAXPROCS(n)
	return func() { runtime.GOMAXPROCS(had) }
}

// scratch is what copying a chunk needs.
type scratch struct {
	pages   [chunk]byte
	entries [chunk / pageSize * entrySize]byte
}

func (c *copier) copyChunk(s *scratch, at, n int64) error {
	p := s.pages[:n]
	some, err := readSparse(c.base, p, at)
	if err != nil {
		return err
	}
	own, err := c.readOwn(p, s.entries[:], at)
	if err != nil || !some && !own && c.sums == nil {
		return err
	}
	return c.writePages(p, at)
}

// readSparse reads from a file, and reports whether anything but a hole is
// there.
func readSparse(file *os.File, p []byte, at int64) (bool, error) {
	data, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= at+int64(len(p)) {
		clear(p)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = file.ReadAt(p, at)
	return true, err
}

// The bits of an entry of /proc/PID/pagemap
// (https://docs.kernel.org/admin-guide/mm/pagemap.html).
const (
	entrySize   = 8
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61
)

// readOwn puts the pages over p that are the process's own, and reports
// whether there are any.
func (c *copier) readOwn(p, entries []byte, at int64) (bool, error) {
	if !c.private {
		return false, nil
	}
	entries = entries[:len(p)/pageSize*entrySize]
	if _, err := c.pagemap.ReadAt(entries, (c.address+at)/pageSize*entrySize); err != nil {
		return false, fmt.Errorf("read page map: %w", err)
	}
	own := func(page int) bool {
		if page*entrySize == len(entries) {
			return false
		}
		entry := binary.NativeEndian.Uint64(entries[page*entrySize:])
		return entry&(pagePresent|pageSwapped) != 0 && entry&pageOfFile == 0
	}
	found := false
	for page := 0; page < len(p)/pageSize; page++ {
		first := page
		for own(page) {
			page++
		}
		if first == page {
			continue
		}
		found = true
		if err := c.readProcess(p[first*pageSize:page*pageSize], at+int64(first)*pageSize); err != nil {
			return true, fmt.Errorf("read process memory: %w", err)
		}
	}
	return found, nil
}

// readProcess reads from the view in the process.
func (c *copier) readProcess(p []byte, at int64) error {
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	remote := []unix.RemoteIovec{{Base: uintptr(c.address + at), Len: len(p)}}
	n, err := unix.ProcessVMReadv(c.pid, local, remote, 0)
	if err == nil && n < len(p) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// writePages writes the pages that out does not have yet, runs of them at once.
func (c *copier) writePages(p []byte, at int64) error {
	for from := 0; from < len(p); {
		to := from
		for to < len(p) && c.isNew(p[to:to+pageSize], at+int64(to)) {
			to += pageSize
		}
		if to == from {
			from += pageSize
			continue
		}
		if _, err := c.out.WriteAt(p[from:to], at+int64(from)); err != nil {
			return err
		}
		c.written.Add(int64(to - from))
		from = to + pageSize // the page at to is not new
	}
	return nil
}

var zeroPage [pageSize]byte

// isNew reports whether a page differs from out's, which it is taken for from
// now on.
func (c *copier) isNew(page []byte, at int64) bool {
	zero := bytes.Equal(page, zeroPage[:])
	if c.sums == nil {
		return !zero
	}
	var sum uint64
	if !zero {
		sum = max(1, maphash.Bytes(c.seed, page))
	}
	was := &c.sums[at/pageSize]
	if *was == sum {
		return false
	}
	*was = sum
	return true
}

// findMapping returns the address at which a process has a file mapped whole.
// Inode, size and place are enough to know it by: the device differs from the
// file's on file systems of several parts (Btrfs).
func findMapping(maps string, file *os.File, bytes int64) (int64, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &want); err != nil {
		return 0, err
	}
	f, err := os.Open(maps)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, 16<<20))
	for lines.Scan() {
		m, ok := parseMapping(lines.Text())
		if ok && m.inode == want.Ino && m.offset == 0 && m.end-m.start == bytes {
			return m.start, nil
		}
	}
	return 0, errors.Join(errors.New("the process does not have the memory mapped"), lines.Err())
}

type mapping struct {
	start, end, offset int64
	inode              uint64
}

// parseMapping reads a line of /proc/PID/maps: "start-end perms offset
// major:minor inode path".
func parseMapping(line string) (m mapping, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	var err error
	number := func(s string, base int) uint64 {
		n, e := strconv.ParseUint(s, base, 63)
		err = errors.Join(err, e)
		return n
	}
	m.start, m.end, m.offset = int64(number(from, 16)), int64(number(to, 16)), int64(number(fields[2], 16))
	m.inode = number(fields[4], 10)
	return m, err == nil
}
