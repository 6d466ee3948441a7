package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// modulesDir is where the modules lie in their archive.
const modulesDir = "modules"

// gather finishes what the customise script left for microVMs: the kernel, and
// the modules as one archive.
func (b *builder) gather(ctx context.Context) error {
	if err := archiveModules(b.modules(), b.archive()); err != nil {
		return fmt.Errorf("archive modules: %w", err)
	}
	for path, part := range map[string]*Part{b.kernel(): &b.made.Kernel, b.archive(): &b.made.Modules} {
		if err := syncFile(path); err != nil {
			return fmt.Errorf("write %s to disk: %w", filepath.Base(path), err)
		}
		var err error
		if *part, err = digestFile(ctx, path); err != nil {
			return fmt.Errorf("compute digest: %w", err)
		}
	}
	return nil
}

// archiveModules writes the files of a directory into an archive. The kernel
// unpacks no file into a directory that the archive has not made before.
func archiveModules(dir, archive string) (err error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("there are none")
	}
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffer := bufio.NewWriter(f)
	w := cpioWriter{w: buffer}
	if err := w.directory(modulesDir); err != nil {
		return err
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := w.file(path.Join(modulesDir, e.Name()), content); err != nil {
			return err
		}
	}
	if err := w.close(); err != nil {
		return err
	}
	return buffer.Flush()
}
