package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// removeWork removes the directory of a build, whatever state it was left in.
// The caller holds the image's lock, so nobody works in it.
//
// The tools mount in a namespace of their own that ends with them. Should a
// mount be there all the same, it is taken off first: removing files through
// a mount of /dev or /proc would remove the host's.
func removeWork(work string, log *slog.Logger) error {
	if _, err := os.Lstat(work); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := mountsBelow(work)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		log.Warn("unmount leftover of a build", "path", mount)
		if err := unix.Unmount(mount, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: mount, Err: err}
		}
	}
	return os.RemoveAll(work)
}

// mountsBelow returns the mount points at or below dir, the last made first.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	return parseMounts(f, real)
}

// parseMounts reads the form of proc_pid_mountinfo(5): the fifth field is the
// mount point, with white space and backslashes as octal escapes.
func parseMounts(r io.Reader, dir string) ([]string, error) {
	var found []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		point := unescapeMount.Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	slices.Reverse(found)
	return found, lines.Err()
}

var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
