package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/atollhq/atoll/internal/agent/rpc"
	"golang.org/x/sys/unix"
)

// lookup finds the file that a command's name stands for. A name with a
// slash is a path already.
func lookup(name, path, cwd string) (string, error) {
	if name == "" || strings.Contains(name, "\x00") {
		return "", spawnError(name, unix.ENOENT)
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	denied := false
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(cwd, dir)
		}
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		switch {
		case err != nil || info.IsDir():
		case info.Mode()&0o111 != 0:
			return file, nil
		default:
			denied = true
		}
	}
	if denied {
		return "", spawnError(name, unix.EACCES)
	}
	return "", spawnError(name, unix.ENOENT)
}

// spawnError says in Deno's words why a command cannot be started.
func spawnError(name string, errno syscall.Errno) error {
	if errno == unix.ENOENT {
		return rpc.NewError("NotFound", "ENOENT", "Failed to spawn '%s': entity not found", name)
	}
	e := rpc.FromOS("", errno)
	e.Message = "Failed to spawn '" + name + "': " + e.Message
	return e
}

// explain finds out what a failed start was about: the kernel has one number
// for a missing command and a missing directory.
func explain(err error, name, cwd string) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	info, err := os.Stat(cwd)
	switch {
	case err != nil:
		return cwdError(name, cwd, rpc.FromOS("", err).ConstructorName, err)
	case !info.IsDir():
		return cwdError(name, cwd, "NotADirectory", unix.ENOTDIR)
	}
	return spawnError(name, errno)
}

func cwdError(name, cwd, class string, err error) error {
	e := rpc.FromOS("", err)
	e.ConstructorName = class
	e.Message = "Failed to spawn '" + name + "': No such cwd '" + cwd + "'"
	if class != "NotFound" {
		e.Message = "Failed to spawn '" + name + "': the cwd '" + cwd + "' can't be used: " + rpc.FromOS("cwd", err).Message
	}
	return e
}
