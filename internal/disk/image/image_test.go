package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atollhq/atoll/internal/errs"
)

func TestOpen(t *testing.T) {
	const good = `{"format": 1, "name": "builtin:debian-13", "digest": "sha256:00", "size": 5}`
	for name, c := range map[string]struct {
		metadata, file string
		want           error
	}{
		"good":             {good, "image", nil},
		"no metadata":      {"", "image", errs.NotFound},
		"no file":          {good, "", errs.Precondition},
		"short file":       {good, "imag", errs.Precondition},
		"no JSON":          {"{", "image", errs.Precondition},
		"other format":     {`{"format": 2, "digest": "sha256:00", "size": 5}`, "image", errs.Precondition},
		"size is missing":  {`{"format": 1, "digest": "sha256:00"}`, "image", errs.Precondition},
		"digest is absent": {`{"format": 1, "size": 5}`, "image", errs.Precondition},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "debian-13.json"), c.metadata)
			put(t, filepath.Join(dir, "debian-13.erofs"), strings.TrimSuffix(c.file, "e"))
			if c.file == "image" {
				put(t, filepath.Join(dir, "debian-13.erofs"), c.file)
			}
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
	content, err := os.ReadFile(image.File)
	if err != nil {
		t.Fatal(err)
	}
	content[0]++
	put(t, image.File, string(content))
	if err := image.Verify(t.Context()); !errors.Is(err, errs.Precondition) {
		t.Errorf("Verify: %v, want precondition", err)
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
	f.Add([]byte(`{"format": 1, "name": "builtin:debian-13", "digest": "sha256:00", "size": 5}`))
	f.Add([]byte(`{"format": 1e9}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		meta, err := parseMetadata(text)
		if err == nil && (meta.Size <= 0 || meta.Format != metadataFormat) {
			t.Errorf("accepted %+v", meta)
		}
	})
}
