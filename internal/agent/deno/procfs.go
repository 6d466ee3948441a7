package deno

import (
	"io/fs"
	"os"
	"path/filepath"
)

// procDir is the kernel's /proc.
type procDir string

func (d procDir) path(name string) string { return filepath.Join(string(d), name) }

func (d procDir) Open(name string) (fs.File, error)          { return os.Open(d.path(name)) }
func (d procDir) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(d.path(name)) }
func (d procDir) ReadLink(name string) (string, error)       { return os.Readlink(d.path(name)) }
