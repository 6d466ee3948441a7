package microvm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
)

// view maps a file into this process.
func view(t *testing.T, file *os.File, bytes, flags int) []byte {
	t.Helper()
	p, err := unix.Mmap(int(file.Fd()), 0, bytes, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(p) })
	return p
}

func memoryFile(t *testing.T, bytes int64) *os.File {
	t.Helper()
	file, err := newMemory(bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func blocks(t *testing.T, file *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// page fills a page of p.
func page(p []byte, number int, with byte) {
	for i := range pageSize {
		p[number*pageSize+i] = with
	}
}

const chunkPages = chunk / pageSize

// exampleMemory is a file of three chunks and a half: data in the first, none
// in the second, one page in the third, none in the rest.
func exampleMemory(t *testing.T) (file *os.File, content []byte) {
	t.Helper()
	content = make([]byte, 3*chunk+chunk/2)
	file = memoryFile(t, int64(len(content)))
	for _, n := range []int{0, 1, 5, chunkPages - 1, 2*chunkPages + 7} {
		page(content, n, byte(n%250+1))
		if _, err := file.WriteAt(content[n*pageSize:(n+1)*pageSize], int64(n)*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	return file, content
}

// A copy of a private view has the pages that were changed, also to zeros, and
// those that were not; neither copying nor looking fills the file beneath.
func TestCopyOfAPrivateView(t *testing.T) {
	base, want := exampleMemory(t)
	memory := view(t, base, len(want), unix.MAP_PRIVATE)
	changes := map[int]byte{
		0: 0, 5: 99, // over data: zeros, other data
		2: 7, chunkPages - 2: 8, // beside data
		chunkPages: 9, 2*chunkPages - 1: 10, // the ends of an empty chunk
		2*chunkPages + 8:                0,  // zeros over nothing
		3*chunkPages + chunkPages/2 - 1: 11, // the last page of all
	}
	for n, with := range changes {
		page(memory, n, with)
		page(want, n, with)
	}
	before := blocks(t, base)
	out := memoryFile(t, int64(len(want)))
	written, err := copyMemory(out, os.Getpid(), base, true)
	if err != nil {
		t.Fatal(err)
	}
	if after := blocks(t, base); after != before {
		t.Errorf("the file beneath grew from %d to %d bytes", before, after)
	}
	equalMemory(t, out, want)
	pages := int64(4 + 6) // untouched or changed, and not zero
	pages -= 1            // page 5 is both
	if written != pages*pageSize || blocks(t, out) != written {
		t.Errorf("%d bytes written, %d kept; want those of %d pages", written, blocks(t, out), pages)
	}
}

// A machine that was booted writes to the file itself.
func TestCopyOfASharedView(t *testing.T) {
	base, want := exampleMemory(t)
	memory := view(t, base, len(want), unix.MAP_SHARED)
	for n, with := range map[int]byte{0: 0, chunkPages + 3: 12} {
		page(memory, n, with)
		page(want, n, with)
	}
	out := memoryFile(t, int64(len(want)))
	written, err := copyMemory(out, os.Getpid(), base, false)
	if err != nil {
		t.Fatal(err)
	}
	equalMemory(t, out, want)
	if written != 5*pageSize || blocks(t, out) != written {
		t.Errorf("%d bytes written, %d kept; want those of 5 pages", written, blocks(t, out))
	}
}

// What was copied ahead is brought up to date, and what has not changed since
// is not written again.
func TestCopyAheadAndAgain(t *testing.T) {
	for name, flags := range map[string]int{"private view": unix.MAP_PRIVATE, "shared view": unix.MAP_SHARED} {
		t.Run(name, func(t *testing.T) {
			base, want := exampleMemory(t)
			memory := view(t, base, len(want), flags)
			out := memoryFile(t, int64(len(want)))
			c, err := newCopier(out, os.Getpid(), base, int64(len(want)), flags == unix.MAP_PRIVATE)
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			page(memory, 3, 3)
			page(memory, 4, 4)
			if err := c.copyAhead(t.Context()); err != nil {
				t.Fatal(err)
			}
			ahead := c.written.Load()
			for n, with := range map[int]byte{0: 0, 3: 33, 2 * chunkPages: 5, 3*chunkPages + 1: 6} {
				page(memory, n, with)
			}
			copy(want, memory)
			if err := c.copyAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			equalMemory(t, out, want)
			if again := c.written.Load() - ahead; again != 4*pageSize {
				t.Errorf("%d bytes written again; want those of 4 pages", again)
			}
		})
	}
}

// Several goroutines copy a large memory, and none of it twice.
func TestCopyOfManyChunks(t *testing.T) {
	want := make([]byte, 33*chunk+3*pageSize)
	base := memoryFile(t, int64(len(want)))
	for n := range len(want) / pageSize {
		page(want, n, byte(n%251)) // some are zeros
	}
	copy(view(t, base, len(want), unix.MAP_SHARED), want)
	out := memoryFile(t, int64(len(want)))
	written, err := copyMemory(out, os.Getpid(), base, false)
	if err != nil {
		t.Fatal(err)
	}
	equalMemory(t, out, want)
	if blocks(t, out) != written {
		t.Errorf("%d bytes written, %d kept", written, blocks(t, out))
	}
}

func equalMemory(t *testing.T, file *os.File, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := file.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	for n := range len(want) / pageSize {
		if at := n * pageSize; !bytes.Equal(got[at:at+pageSize], want[at:at+pageSize]) {
			t.Errorf("page %d begins with %d; want %d", n, got[at], want[at])
		}
	}
}

// A process that has the memory not mapped, or not whole, can't be copied.
func TestCopyNeedsTheWholeView(t *testing.T) {
	base, content := exampleMemory(t)
	out := memoryFile(t, int64(len(content)))
	if _, err := copyMemory(out, os.Getpid(), base, true); err == nil {
		t.Error("copied a process that has no view")
	}
	view(t, base, chunk, unix.MAP_PRIVATE)
	if _, err := copyMemory(out, os.Getpid(), base, true); err == nil {
		t.Error("copied a part for the whole")
	}
}

// Whoever has taken over QEMU has its memory's file open. What is copied does
// not become more by that.
func TestSizeOfMemoryIsNotQEMUs(t *testing.T) {
	memory := memoryFile(t, chunk)
	for _, bytes := range []int64{0, 2 * chunk} {
		if err := memory.Truncate(bytes); err == nil {
			t.Errorf("the memory file has become %d bytes", bytes)
		}
	}
	onDisk, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = onDisk.Close() }()
	if err := onDisk.Truncate(2 * chunk); err != nil {
		t.Fatal(err)
	}
	view(t, onDisk, 2*chunk, unix.MAP_PRIVATE)
	if c, err := newCopier(memoryFile(t, chunk), os.Getpid(), onDisk, chunk, true); err == nil {
		t.Errorf("%d bytes would be copied", c.bytes)
		c.close()
	}
}

func TestSealedMemoryIsOpenedAndNotWritable(t *testing.T) {
	base, want := exampleMemory(t)
	if err := seal(base); err != nil {
		t.Fatal(err)
	}
	shared, err := openShared(sharedBy(t, base), int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shared.Close() }()
	equalMemory(t, shared, want)
	if _, err := shared.WriteAt([]byte("x"), 0); err == nil {
		t.Error("wrote to it")
	}
	if err := shared.Truncate(0); err == nil {
		t.Error("cut it short")
	}
	if _, err := unix.Mmap(int(shared.Fd()), 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("mapped it for writing")
	}
	memory := view(t, shared, len(want), unix.MAP_PRIVATE)
	page(memory, 0, 77)
	equalMemory(t, base, want)
}

func TestOpenSharedRefuses(t *testing.T) {
	unsealed := memoryFile(t, chunk)
	partly := memoryFile(t, chunk)
	if _, err := unix.FcntlInt(partly.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	other := memoryFile(t, 2*chunk)
	if err := seal(other); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "memory")
	if err := os.WriteFile(plain, make([]byte, chunk), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := memoryFile(t, chunk)
	if err := seal(foreign); err != nil {
		t.Fatal(err)
	}
	reused := sharedBy(t, foreign)
	reused.MemoryID = sharedBy(t, other).MemoryID
	for name, from := range map[string]machine.Snapshot{
		"not sealed":            sharedBy(t, unsealed),
		"sealed, but writable":  sharedBy(t, partly),
		"of another size":       sharedBy(t, other),
		"another machine's":     reused,
		"a file on a disk":      {Memory: plain},
		"closed by its holder":  {Memory: "/proc/self/fd/" + strconv.Itoa(1<<19)},
		"not there":             {Memory: "/proc/0/fd/3"},
		"something else, a dir": {Memory: "/"},
	} {
		if file, err := openShared(from, chunk); err == nil {
			t.Errorf("opened memory that is %s", name)
			_ = file.Close()
		}
	}
}

// sharedBy is a snapshot of which the memory is in a file.
func sharedBy(t *testing.T, memory *os.File) (s machine.Snapshot) {
	t.Helper()
	var err error
	if s.Memory, s.MemoryID, err = share(memory); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFillMemoryKeepsHolesAndSeals(t *testing.T) {
	base, want := exampleMemory(t)
	filled, err := fillMemory(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = filled.Close() }()
	equalMemory(t, filled, want)
	if blocks(t, filled) != 5*pageSize {
		t.Errorf("%d bytes for 5 pages", blocks(t, filled))
	}
	if _, err := filled.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it is not sealed")
	}
}

func TestParseMapping(t *testing.T) {
	memfd := mapping{start: 0x7f0000000000, end: 0x7f0020000000, inode: 1234}
	for line, want := range map[string]mapping{
		"7f0000000000-7f0020000000 rw-p 00000000 00:01 1234 /memfd:atoll-memory (deleted)": memfd,
		"7f0000000000-7f0020000000 rw-s 00000000 00:01 1234":                               memfd,
		"1000-3000 r--p 00002000 fd:10 9 /usr/lib/with space":                              {start: 0x1000, end: 0x3000, offset: 0x2000, inode: 9},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]":               {}, // above what is signed
		"":                                      {},
		"1000-3000 r--p 0 fd:10":                {}, // no inode
		"1000 r--p 0 fd:10 9":                   {}, // no end
		"-1000-3000 r--p 0 fd:10 9":             {},
		"1000-3000 r--p zz fd:10 9":             {},
		"1000-3000 r--p 0 fd:10 0x9":            {},
		"1000-30000000000000000 r--p 0 fd:10 9": {}, // over 64 bits
	} {
		got, ok := parseMapping(line)
		if ok != (want != mapping{}) || ok && got != want {
			t.Errorf("%q: %+v, %v; want %+v", line, got, ok, want)
		}
	}
}

func TestCopyIsInterrupted(t *testing.T) {
	base, err := newMemory(2 * chunk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = base.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fillMemory(ctx, base); !errors.Is(err, context.Canceled) {
		t.Errorf("copied, although nobody waits (%v)", err)
	}
}

// copyMemory copies at once.
func copyMemory(out *os.File, pid int, base *os.File, private bool) (int64, error) {
	info, err := base.Stat()
	if err != nil {
		return 0, err
	}
	c, err := newCopier(out, pid, base, info.Size(), private)
	if err != nil {
		return 0, err
	}
	defer c.close()
	err = c.copyAll(context.Background())
	return c.written.Load(), err
}
