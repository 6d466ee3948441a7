package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Program is QEMU's for the guests that this driver makes.
const Program = "qemu-system-x86_64"

// RoundMemory returns what a guest's memory can be that is to have so many
// bytes.
func RoundMemory(bytes int64) int64 { return (bytes + chunk - 1) / chunk * chunk }

// The oldest QEMU with everything that is used here: a network card whose
// other end is a passed socket came with 7.2.
const (
	minMajor = 7
	minMinor = 2
)

// tools are the other programs of the host that the driver runs.
var tools = []struct{ name, debian string }{{"mke2fs", "e2fsprogs"}, {"qemu-img", "qemu-utils"}}

// QEMU is the emulator that a host has.
type QEMU struct {
	Path    string // below /usr, symbolic links followed
	Version string // such as "7.2.22"
}

// FindQEMU looks for QEMU, at the given path or, if that is empty, in PATH, and
// for the other programs that microVMs need. The error says what to install.
func FindQEMU(ctx context.Context, path string) (QEMU, error) {
	if runtime.GOARCH != "amd64" {
		return QEMU{}, fmt.Errorf("microVMs need a host with an x86-64 processor, not %s", runtime.GOARCH)
	}
	var found QEMU
	var err error
	if found.Path, err = findProgram(path); err != nil {
		return found, fmt.Errorf("%w: install QEMU %d.%d or later (Debian: qemu-system-x86)", err, minMajor, minMinor)
	}
	if found.Version, err = version(ctx, found.Path); err != nil {
		return found, fmt.Errorf("ask %s for its version: %w", found.Path, err)
	}
	if !newEnough(found.Version) {
		return found, fmt.Errorf("QEMU %s is too old: install %d.%d or later", found.Version, minMajor, minMinor)
	}
	for _, tool := range tools {
		if _, missing := exec.LookPath(tool.name); missing != nil {
			err = errors.Join(err, fmt.Errorf("%s is missing: install it (Debian: %s)", tool.name, tool.debian))
		}
	}
	return found, err
}

func findProgram(path string) (string, error) {
	if path == "" {
		path = Program
	}
	path, err := exec.LookPath(path)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	if !strings.HasPrefix(path, "/usr/") {
		return "", fmt.Errorf("%s is not below /usr, which is all of the host that QEMU sees", path)
	}
	return path, nil
}

const maxVersion = 4 << 10 // bytes read of what QEMU says

func version(ctx context.Context, path string) (string, error) {
	cmd := exec.CommandContext(ctx, path, "--version")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	said, err := io.ReadAll(io.LimitReader(out, maxVersion))
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return "", err
	}
	v, ok := parseVersion(said)
	if !ok {
		return "", fmt.Errorf("it says %.80q", said)
	}
	return v, nil
}

// parseVersion reads "QEMU emulator version 7.2.22 (Debian …)".
func parseVersion(said []byte) (string, bool) {
	_, rest, ok := bytes.Cut(said, []byte("version "))
	if fields := bytes.Fields(rest); ok && len(fields) > 0 {
		return string(fields[0]), true
	}
	return "", false
}

func newEnough(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err == nil && err2 == nil && (major > minMajor || major == minMajor && minor >= minMinor)
}

// FromTemplate reports whether the machine continued from its template.
func (m *vm) FromTemplate() bool { return m.spec.Template != nil && m.sealed }
