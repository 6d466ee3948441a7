package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/errs"
)

func TestOpen(t *testing.T) {
	const kernel = `"kernel": {"digest": "sha256:01", "size": 6}, "modules": {"digest": "sha256:02", "size": 7}`
	const good = `{"format": 2, "name": "builtin:debian-13", "digest": "sha256:00", "size": 5, ` + kernel + `}`
	for name, c := range map[string]struct {
		metadata, file, kernel, modules string
		want                            error
	}{
		"good":             {good, "image", "kernel", "modules", nil},
		"no metadata":      {"", "image", "kernel", "modules", errs.NotFound},
		"no file":          {good, "", "kernel", "modules", errs.Precondition},
		"short file":       {good, "imag", "kernel", "modules", errs.Precondition},
		"no kernel":        {good, "image", "", "modules", errs.Precondition},
		"short kernel":     {good, "image", "kern", "modules", errs.Precondition},
		"no modules":       {good, "image", "kernel", "", errs.Precondition},
		"long modules":     {good, "image", "kernel", "modules!", errs.Precondition},
		"no JSON":          {"{", "image", "kernel", "modules", errs.Precondition},
		"other format":     {strings.Replace(good, "2", "3", 1), "image", "kernel", "modules", errs.Precondition},
		"size is missing":  {strings.Replace(good, `, "size": 5`, "", 1), "image", "kernel", "modules", errs.Precondition},
		"digest is absent": {strings.Replace(good, `"digest": "sha256:00", `, "", 1), "image", "kernel", "modules", errs.Precondition},
		"only a root":      {strings.Replace(good, ", "+kernel, "", 1), "image", "kernel", "modules", errs.Precondition},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "debian-13.json"), c.metadata)
			put(t, filepath.Join(dir, "debian-13.erofs"), c.file)
			put(t, filepath.Join(dir, "debian-13.vmlinuz"), c.kernel)
			put(t, filepath.Join(dir, "debian-13.modules"), c.modules)
			_, err := Open(dir, "builtin:debian-13")
			if !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
		})
	}
}

// put writes a file; empty text is no file.
func put(t *testing.T, path, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyFindsChange(t *testing.T) {
	h := newFakeHost(t)
	if _, err := h.builder().build(t.Context()); err != nil {
		t.Fatal(err)
	}
	image, err := Open(h.dir, DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{image.File, image.Kernel, image.Modules} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := slices.Clone(content)
		changed[0]++
		put(t, path, string(changed))
		if err := image.Verify(t.Context()); !errors.Is(err, errs.Precondition) || !strings.Contains(errors.Unwrap(err).Error(), path) {
			t.Errorf("Verify with another %s: %v, want precondition", filepath.Base(path), err)
		}
		put(t, path, string(content))
	}
	if err := image.Verify(t.Context()); err != nil {
		t.Errorf("Verify of what was built: %v", err)
	}
}

func TestList(t *testing.T) {
	if images, err := List(filepath.Join(t.TempDir(), "none")); err != nil || len(images) != 0 {
		t.Errorf("no directory: %v, %v", images, err)
	}
	h := newFakeHost(t)
	if _, err := h.builder().build(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(h.dir, "bad.json"), "{")
	images, err := List(h.dir)
	if len(images) != 1 || images[0].Metadata.Name != DefaultName {
		t.Errorf("images = %v", images)
	}
	if err == nil || !strings.Contains(err.Error(), `"bad"`) {
		t.Errorf("error does not name the damaged image: %v", err)
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte(`{"format": 2, "digest": "sha256:00", "size": 5, "kernel": {"digest": "sha256:01", "size": 6}, "modules": {"digest": "sha256:02", "size": 7}}`))
	f.Add([]byte(`{"format": 1e9}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		meta, err := parseMetadata(text)
		if err == nil && (meta.Size <= 0 || meta.Kernel.Size <= 0 || meta.Modules.Size <= 0 || meta.Format != metadataFormat) {
			t.Errorf("accepted %+v", meta)
		}
	})
}
