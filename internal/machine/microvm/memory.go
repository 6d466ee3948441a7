package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
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
