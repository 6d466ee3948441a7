package image

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// publish moves the finished files into place. The metadata makes the image:
// the old one goes first and the new one comes last, so that at no time a
// metadata file stands beside an image that is not its own.
func (b *builder) publish(now time.Time) (Metadata, error) {
	meta, err := b.metadata(now)
	if err != nil {
		return Metadata{}, err
	}
	text, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return Metadata{}, fmt.Errorf("encode metadata: %w", err)
	}
	written := filepath.Join(b.work, "metadata.json")
	if err := writeSynced(written, append(text, '\n')); err != nil {
		return Metadata{}, fmt.Errorf("write metadata: %w", err)
	}
	if err := b.moveIntoPlace(written); err != nil {
		return Metadata{}, fmt.Errorf("move image into place: %w", err)
	}
	return meta, nil
}

func (b *builder) moveIntoPlace(metadata string) error {
	if err := os.Remove(b.files.Metadata()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Running machines keep the old files: they have them open.
	for made, place := range map[string]string{
		b.output(): b.files.File(), b.kernel(): b.files.Kernel(), b.archive(): b.files.Modules(),
	} {
		if err := os.Chmod(made, 0o644); err != nil {
			return err
		}
		if err := os.Rename(made, place); err != nil {
			return err
		}
	}
	if err := syncFile(b.Dir); err != nil {
		return err
	}
	if err := os.Rename(metadata, b.files.Metadata()); err != nil {
		return err
	}
	return syncFile(b.Dir)
}

func (b *builder) metadata(now time.Time) (Metadata, error) {
	versions, err := readPairs(b.versionsFile())
	if err != nil {
		return Metadata{}, fmt.Errorf("read versions: %w", err)
	}
	packages, err := readPairs(b.packagesFile())
	if err != nil {
		return Metadata{}, fmt.Errorf("read packages: %w", err)
	}
	return Metadata{
		Format: metadataFormat, Name: builtin + b.recipe.Name, Arch: b.recipe.Arch, Suite: b.recipe.Suite,
		Versions: versions, Packages: packages,
		Inputs: b.recipe.inputs(), Part: b.made.Part, Kernel: b.made.Kernel, Modules: b.made.Modules,
		Created: now.UTC().Truncate(time.Second),
	}, nil
}

// readPairs reads lines of "name value".
func readPairs(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pairs := map[string]string{}
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return pairs, lines.Err()
		}
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("%s: line %q is not a name and a value", filepath.Base(path), lines.Text())
		}
		pairs[name] = value
	}
}

func writeSynced(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	return syncFile(path)
}

// syncFile writes a file's content, or a directory's entries, to the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
