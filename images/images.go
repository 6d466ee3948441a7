// Package images holds the recipes of the images that Atoll builds itself.
//
// A recipe is data: which Debian packages an image has, and the script that
// turns a fresh Debian root into a sandbox's root. Package disk/image reads it,
// adds the pinned runtimes and makes the file. Every byte here is part of an
// image's inputs, so any change leads to a new build.
package images

import (
	"embed"
	"fmt"
	"path"
	"strings"
)

//go:embed debian-13/packages debian-13/customise.sh
var files embed.FS

// Packages returns the Debian packages of the image, in the order of its list.
// Empty lines and comments are left out.
func Packages(name string) ([]string, error) {
	text, err := files.ReadFile(path.Join(name, "packages"))
	if err != nil {
		return nil, fmt.Errorf("read package list: %w", err)
	}
	var packages []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		packages = append(packages, strings.Fields(line)...)
	}
	return packages, nil
}

// Customise returns the script that is run on the host, as root, with the
// path of the new root directory as its only argument.
func Customise(name string) ([]byte, error) {
	text, err := files.ReadFile(path.Join(name, "customise.sh"))
	if err != nil {
		return nil, fmt.Errorf("read customise script: %w", err)
	}
	return text, nil
}
