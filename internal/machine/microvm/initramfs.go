package microvm

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// The initramfs is the agent, as the kernel's first program, and the archive
// of modules that came with the kernel. Its format is cpio's "newc"
// (https://docs.kernel.org/driver-api/early-userspace/buffer-format.html),
// archives of which can follow each other.

// entry is a file of an archive.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	size         int64
	content      io.Reader
}

const (
	modeDir    = 0o040755
	modeFile   = 0o100755
	modeDevice = 0o020600
)

// writeInitramfs writes the initramfs of an agent and modules to path.
func writeInitramfs(path, agent, modules string) (err error) {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	program, err := os.Open(agent)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() { _ = program.Close() }()
	info, err := program.Stat()
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	archive := &archiver{out: out}
	archive.add(entry{name: "dev", mode: modeDir})
	archive.add(entry{name: "dev/console", mode: modeDevice, major: 5, minor: 1})
	archive.add(entry{name: "init", mode: modeFile, size: info.Size(), content: program})
	archive.add(entry{name: "TRAILER!!!"})
	if archive.err != nil {
		return fmt.Errorf("write initramfs: %w", archive.err)
	}
	return appendFile(out, modules)
}

func appendFile(out io.Writer, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() { _ = in.Close() }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// archiver writes an archive, until the first error.
type archiver struct {
	out     io.Writer
	written int64
	entries int
	err     error
}

func (a *archiver) add(e entry) {
	a.entries++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.entries, e.mode, 0, 0, 1, 0, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0)
	a.copy(strings.NewReader(header+e.name+"\x00"), int64(len(header)+len(e.name)+1))
	a.pad()
	if e.content != nil {
		a.copy(e.content, e.size)
		a.pad()
	}
}

func (a *archiver) copy(r io.Reader, n int64) {
	if a.err != nil {
		return
	}
	var copied int64
	copied, a.err = io.CopyN(a.out, r, n)
	a.written += copied
}

// pad brings the archive to a multiple of 4 bytes.
func (a *archiver) pad() {
	if n := -a.written & 3; n > 0 {
		a.copy(strings.NewReader("\x00\x00\x00"), n)
	}
}
