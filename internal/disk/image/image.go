package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
)

// metadataFormat is the version of Metadata's JSON form.
const metadataFormat = 2

// maxMetadata bounds what Open reads, in bytes.
const maxMetadata = 4 << 20

// Metadata describes one image. Its JSON form is the image's last file.
type Metadata struct {
	Format   int               `json:"format"`
	Name     string            `json:"name"` // as users write it: "builtin:debian-13"
	Arch     string            `json:"arch"`
	Suite    string            `json:"suite"`
	Versions map[string]string `json:"versions"` // as the programs in the image report them; "linux" is the kernel's
	Packages map[string]string `json:"packages"` // Debian packages
	Inputs   string            `json:"inputs"`   // digest of the recipe
	Part                       // the root
	Kernel   Part              `json:"kernel"`
	Modules  Part              `json:"modules"`
	Created  time.Time         `json:"created"`
}

// Part describes one file of an image.
type Part struct {
	Digest string `json:"digest"` // "sha256:…"
	Size   int64  `json:"size"`   // bytes
}

// Image is an image that is there and complete.
type Image struct {
	File     string // path of the EROFS file
	Kernel   string // path of the kernel
	Modules  string // path of the archive of the modules that the kernel starts with
	Metadata Metadata
}

// Open finds the image of that name, with or without "builtin:". It checks
// that all files are there and that their sizes are the recorded ones; Verify
// checks the content too. A missing image is errs.NotFound, a damaged one
// errs.Precondition.
func Open(dir, name string) (Image, error) {
	files := layout.Image{Dir: dir, Name: fileName(name)}
	meta, err := readMetadata(files.Metadata())
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, missing(name, dir)
	}
	if err != nil {
		return Image{}, damaged(name, err)
	}
	image := Image{File: files.File(), Kernel: files.Kernel(), Modules: files.Modules(), Metadata: meta}
	for path, part := range image.parts() {
		if err := part.checkSize(path); err != nil {
			return Image{}, damaged(name, err)
		}
	}
	return image, nil
}

// parts are the files of an image besides its metadata, by path.
func (i Image) parts() map[string]Part {
	return map[string]Part{i.File: i.Metadata.Part, i.Kernel: i.Metadata.Kernel, i.Modules: i.Metadata.Modules}
}

func (p Part) checkSize(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != p.Size {
		return fmt.Errorf("%s has %d bytes, not %d", path, info.Size(), p.Size)
	}
	return nil
}

// List returns the images in dir, by name. Damaged ones are left out; the
// error then names them, and the list is still good. A directory that does
// not exist is empty.
func List(dir string) ([]Image, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var found []Image
	var bad []error
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), filepath.Ext(layout.Image{}.Metadata()))
		if !ok || strings.HasPrefix(name, ".") || entry.IsDir() {
			continue
		}
		image, err := Open(dir, name)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		found = append(found, image)
	}
	slices.SortFunc(found, func(a, b Image) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return found, errors.Join(bad...)
}

// Verify reads the whole files and compares their digests.
func (i Image) Verify(ctx context.Context) error {
	for path, want := range i.parts() {
		got, err := digestFile(ctx, path)
		if err != nil {
			return fmt.Errorf("verify image: %w", err)
		}
		if got != want {
			return damaged(i.Metadata.Name, fmt.Errorf("digest of %s is %s, not %s", path, got.Digest, want.Digest))
		}
	}
	return nil
}

func missing(name, dir string) error {
	return errs.New(errs.NotFound, "IMAGE_NOT_FOUND", "image %q is not in %s; make it with \"atoll image build\"", name, dir)
}

func damaged(name string, cause error) error {
	return errs.Wrap(cause, errs.Precondition, "IMAGE_DAMAGED", "image %q is damaged; make it again with \"atoll image build --force\"", name)
}

func readMetadata(path string) (Metadata, error) {
	f, err := os.Open(path)
	if err != nil {
		return Metadata{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMetadata))
	if err != nil {
		return Metadata{}, err
	}
	return parseMetadata(text)
}

func parseMetadata(text []byte) (Metadata, error) {
	var meta Metadata
	if err := json.Unmarshal(text, &meta); err != nil {
		return Metadata{}, fmt.Errorf("parse metadata: %w", err)
	}
	if meta.Format != metadataFormat {
		return Metadata{}, fmt.Errorf("metadata has format %d, not %d", meta.Format, metadataFormat)
	}
	for _, part := range []Part{meta.Part, meta.Kernel, meta.Modules} {
		if part.Size <= 0 || !strings.HasPrefix(part.Digest, "sha256:") {
			return Metadata{}, errors.New("metadata lacks size or digest")
		}
	}
	return meta, nil
}

// digestFile describes a file.
func digestFile(ctx context.Context, path string) (Part, error) {
	f, err := os.Open(path)
	if err != nil {
		return Part{}, err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, &cancelReader{ctx, f})
	if err != nil {
		return Part{}, err
	}
	return Part{"sha256:" + hex.EncodeToString(hash.Sum(nil)), n}, nil
}

// cancelReader ends a long read when its context ends.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
