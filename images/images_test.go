package images

import (
	"slices"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	packages, err := Packages("debian-13")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bash", "sudo", "python3-venv", "gcc", "git", "ca-certificates"} {
		if !slices.Contains(packages, want) {
			t.Errorf("packages of debian-13 miss %q", want)
		}
	}
	for _, name := range packages {
		if strings.ContainsAny(name, "#, \t") {
			t.Errorf("package name %q has characters that no Debian package has", name)
		}
	}
	sorted := slices.Sorted(slices.Values(packages))
	if unique := slices.Compact(slices.Clone(sorted)); len(unique) != len(packages) {
		t.Errorf("the package list names a package twice: %v", sorted)
	}
}

func TestUnknownImage(t *testing.T) {
	if _, err := Packages("debian-99"); err == nil {
		t.Error("Packages of an unknown image: no error")
	}
	if _, err := Customise("debian-99"); err == nil {
		t.Error("Customise of an unknown image: no error")
	}
}
