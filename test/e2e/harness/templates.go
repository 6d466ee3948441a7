//go:build e2e

package harness

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/atollhq/atoll/internal/machine/microvm"
)

// templatesVariable names a directory where the servers of a run share the
// templates of their microVMs: making one is a boot.
const templatesVariable = "ATOLL_TEST_TEMPLATES"

// takeTemplates gives a server that makes microVMs the templates that others
// made.
func (s *Server) takeTemplates() error {
	shared := os.Getenv(templatesVariable)
	if shared == "" || Isolation() != microvm.Name && !slices.Contains(s.flags, microvm.Name) {
		return nil
	}
	return shareTemplates(shared, s.Data.Templates())
}

// leaveTemplates leaves those that a server made to others.
func (s *Server) leaveTemplates() error {
	shared := os.Getenv(templatesVariable)
	if shared == "" {
		return nil
	}
	return shareTemplates(s.Data.Templates(), shared)
}

// shareTemplates gives the templates of one directory names in another. Their
// files are never written to again.
func shareTemplates(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			err = errors.Join(err, shareTemplate(filepath.Join(from, e.Name()), to))
		}
	}
	return err
}

func shareTemplate(from, to string) error {
	if _, err := os.Stat(filepath.Join(to, filepath.Base(from))); err == nil {
		return nil
	}
	whole, err := os.MkdirTemp(to, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(whole) // where it is in place, there is nothing to remove
	files, err := os.ReadDir(from)
	for _, f := range files {
		err = errors.Join(err, os.Link(filepath.Join(from, f.Name()), filepath.Join(whole, f.Name())))
	}
	if err != nil {
		return err
	}
	if err := os.Rename(whole, filepath.Join(to, filepath.Base(from))); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // another server was faster
}
