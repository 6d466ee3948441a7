package image

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestRecipePins(t *testing.T) {
	exact := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	for _, arch := range []string{"amd64", "arm64"} {
		r, err := newRecipe(DefaultName, arch, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Runtimes {
			if !exact.MatchString(p.Version) || !strings.HasPrefix(p.Integrity, "sha512-") || len(p.Files) == 0 {
				t.Errorf("%s: %s is not pinned: %+v", arch, p.Runtime, p)
			}
		}
		if got := r.runtimeNames(); !strings.Contains(got, "node 24.") {
			t.Errorf("%s: runtimes are %q", arch, got)
		}
	}
}

func TestInputs(t *testing.T) {
	amd, err := newRecipe("debian-13", "amd64", "")
	if err != nil {
		t.Fatal(err)
	}
	arm, err := newRecipe("builtin:debian-13", "arm64", "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := newRecipe("builtin:debian-13", "amd64", "")
	if err != nil {
		t.Fatal(err)
	}
	if amd.inputs() != again.inputs() || amd.uuid() != again.uuid() {
		t.Error("equal recipes have different digests")
	}
	if amd.inputs() == arm.inputs() || amd.uuid() == arm.uuid() {
		t.Error("different recipes have the same digest")
	}
	if form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`); !form.MatchString(amd.uuid()) {
		t.Errorf("%q is no UUID", amd.uuid())
	}
}

func TestBootstrapArgs(t *testing.T) {
	r := recipe{Suite: "trixie", Arch: "arm64", Packages: []string{"bash", "git"}}
	want := []string{
		"--mode=root", "--format=directory", "--variant=minbase", "--architectures=arm64",
		"--include=bash,git", "--customize-hook=/w/customise.sh", "trixie", "/w/root",
	}
	if got := bootstrapArgs(r, "/w/customise.sh", "/w/root"); !slices.Equal(got, want) {
		t.Errorf("args = %q", got)
	}
	r.Mirror = "file:///mirror"
	if got := bootstrapArgs(r, "/s", "/w/root"); got[len(got)-1] != r.Mirror || got[len(got)-2] != "/w/root" {
		t.Errorf("args with mirror = %q", got)
	}
}
