package microvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The guest's writable disk is a chain of files: first a raw one, made as an
// empty ext4 file system, then one in QEMU's qcow2 format for each time that
// the machine was saved and others may still read what was there. Only the
// last is written to. A chain that has become long or large is flattened: its
// last file takes in all that is in the others.

const (
	// baseDisk is the first file of a chain that was never flattened.
	baseDisk = "disk0.raw"

	// maxChain bounds the files of a chain: each takes memory of QEMU's for its
	// tables, about a MiB per 8 GiB of disk, and a look-up for what is not in
	// it.
	maxChain = 24
	// maxHistory bounds what they take on the host's disk when another one is
	// added, in disks.
	maxHistory = 2
)

// diskName is the name of the file that follows in a chain.
func diskName(chain []string) string {
	last := chain[len(chain)-1]
	if last == baseDisk {
		return overlayName(1)
	}
	return overlayName(overlayNumber(last) + 1)
}

func overlayName(n int) string { return fmt.Sprintf("disk%d.qcow2", n) }

// overlayNumber is overlayName's reverse, 0 for any other name.
func overlayNumber(name string) int {
	digits, _ := strings.CutPrefix(strings.TrimSuffix(name, ".qcow2"), "disk")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || overlayName(n) != name {
		return 0
	}
	return n
}

// isChain reports whether these are the names that a chain's files have: they
// become paths, and words of QEMU's.
func isChain(names []string) bool {
	for i, name := range names {
		if i == 0 && name != baseDisk && overlayNumber(name) == 0 || i > 0 && name != diskName(names[:i]) {
			return false
		}
	}
	return len(names) > 0
}

// makeBaseDisk makes an empty file system of that size: a copy of blank, if
// there is one of that size.
func makeBaseDisk(ctx context.Context, path, blank string, bytes int64) error {
	if info, err := os.Stat(blank); err == nil && info.Size() == bytes {
		return copySparse(path, blank)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	err = file.Truncate(bytes)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	// No journal: the disk ends with its machine. Tables are zero already.
	return tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0",
		"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", path)
}

// makeOverlay makes an empty file in qcow2 format.
func makeOverlay(ctx context.Context, path string, bytes int64) error {
	return tool(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(bytes, 10))
}

func tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", name, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("run %s: %w: %.512q", name, err, out)
	}
	return nil
}

// copySparse copies a file; its holes stay holes.
func copySparse(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	defer func() {
		if closeErr := out.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("copy disk: %w", closeErr)
		}
	}()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	if err := out.Truncate(info.Size()); err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	for at := int64(0); at < info.Size(); {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy disk: %w", err)
		}
		if at, err = unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("copy disk: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, at-data)); err != nil {
			return fmt.Errorf("copy disk: %w", err)
		}
	}
	return nil
}

// give makes a file QEMU's, and nobody else's.
func give(path string, uid int) error {
	if err := os.Chown(path, uid, uid); err != nil {
		return fmt.Errorf("give file to qemu: %w", err)
	}
	return nil
}

// linkAll gives files of one directory names in another.
func linkAll(to, from string, names []string) error {
	for _, name := range names {
		if err := os.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return fmt.Errorf("share disk: %w", err)
		}
	}
	return nil
}
