package microvm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A guest's memory is a file that QEMU maps: a memory file of its own when it
// booted, which the mapping writes to; or what another machine was saved with,
// of which it has a private view. A memory file that several machines share is
// sealed: QEMU opens it for writing, as it opens every such file, but neither
// write nor a shared mapping can change it.

const (
	memoryName = "atoll-memory" // shows in /proc/PID/maps
	seals      = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	pageSize   = 4096
	chunk      = 2 << 20 // bytes looked at and copied at a time
)

// newMemory makes an empty memory file, which takes no memory yet.
func newMemory(bytes int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), memoryName)
	if err := file.Truncate(bytes); err != nil {
		return nil, errors.Join(fmt.Errorf("make memory file: %w", err), file.Close())
	}
	return file, nil
}

// seal makes a memory file read-only for good. Nothing may have it mapped for
// writing.
func seal(file *os.File) error {
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memory: %w", err)
	}
	return nil
}

// openShared opens the memory of a snapshot that another process holds. It
// must be sealed: the path may by now name something else.
func openShared(path string, bytes int64) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open saved memory: %w", err)
	}
	has, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err == nil && has&seals != seals {
		err = errors.New("it is not sealed")
	}
	if err == nil {
		err = checkSize(file, bytes)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open saved memory: %w", err), file.Close())
	}
	return file, nil
}

func checkSize(file *os.File, bytes int64) error {
	info, err := file.Stat()
	if err == nil && info.Size() != bytes {
		err = fmt.Errorf("it has %d bytes, not %d", info.Size(), bytes)
	}
	return err
}

// allocated is how many bytes of a file are no holes, 0 if that can't be told.
func allocated(file *os.File) int64 {
	const block = 512 // stat(2)
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * block
	}
	return 0
}

// copier copies what one machine's memory holds to a file that is empty so
// far; pages of zeros stay holes.
//
// The process is asked only for pages that are its own. Asking for others
// would make the pages of the file beneath it be read in, or worse, filled.
type copier struct {
	out, base *os.File
	bytes     int64
	written   int64
	buffer    [chunk]byte
	entries   [chunk / pageSize * entrySize]byte

	// Of the process; nil if the base is all that is of interest.
	pid     int
	private bool // the process's view differs from the base
	pagemap *os.File
	address int64 // of the view in the process
}

// newCopier copies the memory that a process has mapped from the base.
func newCopier(out *os.File, pid int, base *os.File, private bool) (*copier, error) {
	c, err := newFileCopier(out, base)
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

// copyAll copies everything, of a machine that stands still.
func (c *copier) copyAll(ctx context.Context) error {
	for at := int64(0); at < c.bytes; at += chunk {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy memory: %w", err)
		}
		if err := c.copyChunk(at, min(chunk, c.bytes-at)); err != nil {
			return fmt.Errorf("copy memory: %w", err)
		}
	}
	return nil
}

func (c *copier) copyChunk(at, n int64) error {
	p := c.buffer[:n]
	some, err := c.readBase(p, at)
	if err != nil {
		return err
	}
	if !some {
		clear(p)
	}
	own, err := c.readOwn(p, at)
	if err != nil || !some && !own {
		return err
	}
	return c.writePages(p, at)
}

// readBase reads what the base has, and reports whether that is anything.
func (c *copier) readBase(p []byte, at int64) (bool, error) {
	data, err := unix.Seek(int(c.base.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= at+int64(len(p)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = c.base.ReadAt(p, at)
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
func (c *copier) readOwn(p []byte, at int64) (bool, error) {
	if !c.private {
		return false, nil
	}
	return c.eachRun(at, len(p), func(entry uint64) bool {
		return entry&(pagePresent|pageSwapped) != 0 && entry&pageOfFile == 0
	}, func(from, to int64) error {
		return c.readProcess(p[from-at:to-at], from)
	})
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

// eachRun calls do for each run of pages in a chunk of which the process's
// entries are wanted, and reports whether there was any.
func (c *copier) eachRun(at int64, n int, wanted func(entry uint64) bool, do func(from, to int64) error) (bool, error) {
	pages := n / pageSize
	entries := c.entries[:pages*entrySize]
	if _, err := c.pagemap.ReadAt(entries, (c.address+at)/pageSize*entrySize); err != nil {
		return false, fmt.Errorf("read page map: %w", err)
	}
	want := func(page int) bool {
		return page < pages && wanted(binary.NativeEndian.Uint64(entries[page*entrySize:]))
	}
	found := false
	for page := 0; page < pages; page++ {
		if !want(page) {
			continue
		}
		found = true
		first := page
		for want(page) {
			page++
		}
		if err := do(at+int64(first)*pageSize, at+int64(page)*pageSize); err != nil {
			return true, fmt.Errorf("read process memory: %w", err)
		}
	}
	return found, nil
}

// writePages writes the runs of pages that are not all zeros.
func (c *copier) writePages(p []byte, at int64) error {
	for len(p) > 0 {
		n := runOf(p, true)
		at, p = at+int64(n), p[n:]
		if n = runOf(p, false); n == 0 {
			continue
		}
		if _, err := c.out.WriteAt(p[:n], at); err != nil {
			return err
		}
		c.written += int64(n)
		at, p = at+int64(n), p[n:]
	}
	return nil
}

var zeroPage [pageSize]byte

// runOf returns the length of the run of pages that are zero, or are not.
func runOf(p []byte, zero bool) int {
	n := 0
	for n < len(p) {
		page := p[n:min(n+pageSize, len(p))]
		if (string(page) == string(zeroPage[:len(page)])) != zero {
			break
		}
		n += len(page)
	}
	return n
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

// fillMemory copies a saved memory's file into a memory file, holes left out,
// and seals it.
func fillMemory(ctx context.Context, file *os.File) (*os.File, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read saved memory: %w", err)
	}
	memory, err := newMemory(info.Size())
	if err != nil {
		return nil, err
	}
	c, err := newFileCopier(memory, file)
	if err == nil {
		err = c.copyAll(ctx)
	}
	if err == nil {
		err = seal(memory)
	}
	if err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	return memory, nil
}

// descriptorPath names an open file of this process for other processes.
func descriptorPath(file *os.File) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())
}
