package image

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Bounds on one archive. The largest known file, node itself, has 130 MB.
const (
	maxUnpacked = 1 << 30 // bytes, all files
	maxEntries  = 50_000
)

// unpack writes the chosen files of an npm archive below dir. Everything in
// such an archive is below one top directory, usually "package". Only regular
// files are taken, executable where the archive says so.
func unpack(ctx context.Context, archive, dir string, chosen []placement) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	return unpackFrom(&cancelReader{ctx, f}, dir, chosen)
}

func unpackFrom(r io.Reader, dir string, chosen []placement) error {
	zipped, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	content := tar.NewReader(io.LimitReader(zipped, maxUnpacked))
	used := make([]bool, len(chosen))
	for range maxEntries {
		entry, err := content.Next()
		if errors.Is(err, io.EOF) {
			return allUsed(chosen, used)
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := placeEntry(content, entry, dir, chosen, used); err != nil {
			return err
		}
	}
	return fmt.Errorf("archive has more than %d entries", maxEntries)
}

func placeEntry(r io.Reader, entry *tar.Header, dir string, chosen []placement, used []bool) error {
	if entry.Typeflag != tar.TypeReg {
		return nil
	}
	if !filepath.IsLocal(entry.Name) {
		return fmt.Errorf("archive has an entry outside of itself: %q", entry.Name)
	}
	_, name, ok := strings.Cut(path.Clean(entry.Name), "/")
	if !ok {
		return nil
	}
	for i, p := range chosen {
		to, ok := p.target(name)
		if !ok {
			continue
		}
		used[i] = true
		return writeEntry(r, filepath.Join(dir, to), entry.FileInfo().Mode())
	}
	return nil
}

// target returns where a file of the archive goes, below /usr/local.
func (p placement) target(name string) (string, bool) {
	if p.From == "" {
		return path.Join(p.To, name), true
	}
	rest, ok := strings.CutPrefix(name, p.From)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return path.Join(p.To, rest), true
}

func writeEntry(r io.Reader, to string, mode os.FileMode) error {
	perm := os.FileMode(0o644)
	if mode&0o100 != 0 {
		perm = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return fmt.Errorf("read archive: %w", err)
	}
	// A narrow umask would make the runtimes root's alone.
	if err := f.Chmod(perm); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func allUsed(chosen []placement, used []bool) error {
	for i, p := range chosen {
		if !used[i] {
			return fmt.Errorf("archive has no %q", p.From)
		}
	}
	return nil
}
