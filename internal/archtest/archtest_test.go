package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/atollhq/atoll"

// levels orders the areas of the code base. A package may import its own area
// and areas of a lower level. An area is a directory with all below it.
var levels = map[string]int{
	// What everybody may know: words, names, classes of errors.
	"api": 0, "images": 0, "internal/archtest": 0, "internal/cgroup": 0, "internal/errs": 0,
	"internal/layout": 0, "internal/lifecycle": 0, "internal/link": 0, "internal/obs": 0, "internal/private": 0,
	"internal/config": 1,
	// One power each, ignorant of the others.
	"internal/machine": 2, "internal/store": 2, "internal/disk": 2,
	"internal/auth": 3, "internal/gateway": 3,
	"internal/shim": 4,
	// The domain, and who speaks for it.
	"internal/sandbox": 5,
	"internal/relay":   6, "internal/shim/launch": 6, "internal/isolation": 6, // the daemon's side of the shim, behind an interface of the domain
	"internal/httpapi": 7, "internal/ingress": 7,
	"internal/serve": 8,
	// Users of the server. The agent stands alone, inside the machine.
	"internal/agent": 1, "client": 1, "internal/cli": 9,
	"cmd": 10, "test": 10,
}

// only restricts what an area may import from this module, tests excepted.
var only = []struct {
	area    string
	imports []string
	why     string
}{
	{"api", nil, "wire types are shared by everything, and are all that the Go SDK's users get"},
	{"client", []string{"api"}, "it is the Go SDK: other modules must be able to import all it needs"},
	{"internal/agent", []string{"api", "internal/link"}, "it runs inside the machine, where nothing of the host exists or may be known"},
	{"cmd/atoll-agent", []string{"api", "internal/link", "internal/agent"}, "it runs inside the machine, where nothing of the host exists or may be known"},
	{"internal/machine", []string{"internal/cgroup", "internal/link"}, "drivers make machines; what a sandbox or a server is, they never learn"},
	{"internal/gateway", []string{"internal/machine", "internal/errs"}, "the gateway sees packets; it knows nothing of the API"},
	{"internal/store", []string{"internal/errs", "internal/layout"}, "rows and queries only: rules live in the domain"},
}

// reserved gives a library to one area.
var reserved = []struct{ library, area, why string }{
	{"database/sql", "internal/store", "only store knows SQL"},
	{"modernc.org/sqlite", "internal/store", "only store knows SQL"},
	{"github.com/pressly/goose", "internal/store", "only store knows SQL"},
	{"gvisor.dev/gvisor", "internal/gateway", "the user-space network is the only part of gVisor that is linked in; runsc is a process"},
	{"github.com/spf13/cobra", "internal/cli", "flags are the command line's own matter"},
}

var forbiddenNames = []string{
	"util", "utils", "common", "helper", "helpers", "types", "models", "pkg", "misc", "shared", "base", "hack", "lib",
}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath string
	Doc        string
	Name       string
	GoFiles    []string
	Imports    []string
}

func (p goPackage) path() string { return own(p.ImportPath) }

// own is the path inside this module, or "".
func own(importPath string) string {
	path, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return path
}

func below(path, area string) bool { return path == area || strings.HasPrefix(path, area+"/") }

// area finds the longest area that the path is in.
func area(path string) (string, bool) {
	for p := path; p != "."; p = filepath.Dir(p) {
		if _, ok := levels[p]; ok {
			return p, true
		}
	}
	return "", false
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Doc,GoFiles,Imports", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(text))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 && p.path() != "" {
			all = append(all, p)
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportsPointDownwards(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := area(p.path())
		if !ok {
			t.Errorf("%s is in no area: give it a level in archtest", p.path())
			continue
		}
		for _, imported := range p.Imports {
			to, ok := area(own(imported))
			if ok && to != from && levels[to] >= levels[from] {
				t.Errorf("%s imports %s: imports point downwards only, and %s (%d) is not below %s (%d)",
					p.path(), own(imported), to, levels[to], from, levels[from])
			}
		}
	}
}

func TestRestrictedAreas(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range only {
			if !below(p.path(), rule.area) {
				continue
			}
			allowed := append([]string{rule.area}, rule.imports...)
			for _, imported := range p.Imports {
				path := own(imported)
				if path != "" && !slices.ContainsFunc(allowed, func(a string) bool { return below(path, a) }) {
					t.Errorf("%s imports %s: %s", p.path(), path, rule.why)
				}
			}
		}
	}
}

func TestAPIImportsStandardLibraryOnly(t *testing.T) {
	for _, p := range packages(t) {
		if !below(p.path(), "api") {
			continue
		}
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && own(imported) == "" {
				t.Errorf("%s imports %s: wire types must not bind their users to a library", p.path(), imported)
			}
		}
	}
}

func TestReservedLibraries(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range reserved {
			for _, imported := range p.Imports {
				if below(imported, rule.library) && !below(p.path(), rule.area) {
					t.Errorf("%s imports %s: %s", p.path(), imported, rule.why)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhyItExists(t *testing.T) {
	for _, p := range packages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment is %q; it has to begin with %q", p.path(), p.Doc, want)
		}
	}
}

func TestFolderNames(t *testing.T) {
	err := filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name := entry.Name()
		if name == "node_modules" || name == "bin" || name == "testdata" || strings.HasPrefix(name, ".") && name != "." {
			return filepath.SkipDir
		}
		if slices.Contains(forbiddenNames, strings.ToLower(name)) {
			t.Errorf("%s: %q says nothing about what is in it", path, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
