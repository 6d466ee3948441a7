package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// inspect checks what a sandbox relies on and what it must not find, before
// the root becomes an image. All findings are reported at once.
func (b *builder) inspect(context.Context) error {
	var found []error
	for _, c := range rootChecks {
		if err := c.check(b.root(), c.path); err != nil {
			found = append(found, fmt.Errorf("/%s: %w (%s)", c.path, err, c.why))
		}
	}
	return errors.Join(found...)
}

// rootCheck is one property of every image.
type rootCheck struct {
	path  string // below the root; may be a pattern
	check func(root, path string) error
	why   string
}

var rootChecks = []rootCheck{
	{"usr/bin/bash", program, "the user's shell"},
	{"usr/bin/sudo", program, "app may become root"},
	{"usr/bin/git", program, "promised content"},
	{"usr/bin/python3", program, "promised content"},
	{"usr/local/bin/deno", program, "promised content, and what the deno calls run"},
	{"usr/local/bin/node", program, "promised content"},
	{"usr/local/bin/npm", program, "promised content"},
	{"usr/local/bin/npx", program, "promised content"},
	{"usr/sbin/modprobe", program, "microVMs load modules"},
	{"usr/lib/modules/*/modules.dep", present, "microVMs load modules"},
	{"boot/*", absent, "the kernel lies beside the image"},
	{"etc/passwd", contains("app:x:1000:1000:"), "the user that code runs as"},
	{"etc/sudoers.d/app", contains("NOPASSWD"), "app may become root"},
	{"home/app", directory, "home and working directory"},
	{".atoll", directory, "the agent is mounted there"},
	{"etc/machine-id", empty, "no two sandboxes may share it"},
	{"etc/resolv.conf", empty, "the build host's resolver is nobody's business"},
	{"etc/ssh/ssh_host_*", absent, "no two sandboxes may share host keys"},
	{"usr/local/share/ca-certificates/*", absent, "the build host's certificates are trusted by choice of each server"},
	{"usr/lib/python3*/EXTERNALLY-MANAGED", absent, "pip may install into the sandbox"},
	{"tmp/*", absent, "leftover of the build"},
	{"root/.[cn]*", absent, "leftover of the build: caches of npm and others"},
	{"var/lib/apt/lists/*_*", absent, "package lists would be stale"},
}

// program accepts a file that may be executed, also behind a link that is
// relative: an absolute one would be looked up on the host.
func program(root, path string) error {
	info, err := os.Stat(filepath.Join(root, path))
	if err != nil {
		return errors.New("is missing")
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 != 0o111 {
		return fmt.Errorf("is no program: %s", info.Mode())
	}
	return nil
}

func directory(root, path string) error {
	info, err := os.Lstat(filepath.Join(root, path))
	if err != nil || !info.IsDir() {
		return errors.New("is not a directory")
	}
	return nil
}

func contains(text string) func(root, path string) error {
	return func(root, path string) error {
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return errors.New("is missing")
		}
		if !strings.Contains(string(content), text) {
			return fmt.Errorf("lacks %q", text)
		}
		return nil
	}
}

func empty(root, path string) error {
	info, err := os.Lstat(filepath.Join(root, path))
	if err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
		return errors.New("is not an empty file")
	}
	return nil
}

func present(root, pattern string) error {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err == nil && len(found) == 0 {
		err = errors.New("is missing")
	}
	return err
}

func absent(root, pattern string) error {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("must not be there: %s found", filepath.Base(found[0]))
	}
	return nil
}
