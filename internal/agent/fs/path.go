package fs

import (
	"path"
	"strings"
)

// resolve makes a client's path absolute. It does not clean it: what ".."
// after a symbolic link means is the kernel's to say. The empty path stays
// empty, which the kernel answers with "no such file".
func (s *Service) resolve(p string) string {
	if p == "" || p[0] == '/' {
		return p
	}
	return s.cfg.Home + "/" + p
}

// normalize is the lexical clean-up of @std/path: as path.Clean, but a
// trailing slash stays.
func normalize(p string) string {
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		return clean + "/"
	}
	return clean
}

// join appends the name of a directory entry, as @std/path's join does.
func join(dir, name string) string { return path.Join(dir, name) }
