package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
)

// spaceNeeded is what one build writes at most, in bytes: the root, the
// packages and the file, with room to spare.
const spaceNeeded = 4 << 30

// Options say what to build and where.
type Options struct {
	Dir      string       // image directory; made when missing
	Name     string       // empty is DefaultName; "builtin:" may be left out
	Arch     string       // "amd64" or "arm64"; empty is the host's
	Mirror   string       // a Debian mirror in place of mmdebstrap's own choice
	Force    bool         // build even if the image in place has the same inputs
	Progress io.Writer    // for a person; nil is silent
	Log      *slog.Logger // nil is silent
}

// Build makes the image, unless one with the same inputs is in place, and
// returns its metadata. It needs root, the tools that Missing checks, and the
// package registries as the host is set up to reach them.
//
// When ctx ends, the build stops within seconds and leaves nothing behind.
func Build(ctx context.Context, o Options) (Metadata, error) {
	b, err := newBuilder(o)
	if err != nil {
		return Metadata{}, err
	}
	return b.build(ctx)
}

// builder is one call of Build.
type builder struct {
	Options
	recipe recipe
	files  layout.Image
	work   string // private directory of the build
	say    *progress
	tools  runner
	euid   int
	space  uint64 // needed, bytes

	made Metadata // its parts, as pack and gather made them
}

func newBuilder(o Options) (*builder, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		return nil, errs.New(errs.Invalid, "NO_IMAGE_DIR", "no image directory was given")
	}
	// The tools run elsewhere: a relative path would mean another place there.
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find image directory: %w", err)
	}
	o.Dir = dir
	r, err := newRecipe(o.Name, o.Arch, o.Mirror)
	if err != nil {
		return nil, err
	}
	files := layout.Image{Dir: o.Dir, Name: r.Name}
	say := newProgress(o.Progress)
	return &builder{
		Options: o, recipe: r, files: files, work: files.Work(), say: say,
		tools: runner{echo: say, isolate: true}, euid: os.Geteuid(), space: spaceNeeded,
	}, nil
}

func (b *builder) build(ctx context.Context) (Metadata, error) {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return Metadata{}, fmt.Errorf("make image directory: %w", err)
	}
	unlock, err := lock(ctx, b.files.Lock(), func() {
		b.say.line("another build of %s is running; waiting for it", b.recipe.Name)
	})
	if err != nil {
		return Metadata{}, fmt.Errorf("lock image: %w", err)
	}
	defer unlock()
	if meta, ok := b.upToDate(); ok {
		b.say.line("image %s is up to date: %s", meta.Name, b.files.File())
		return meta, nil
	}
	meta, err := b.make(ctx)
	if ctx.Err() != nil && err != nil {
		return Metadata{}, fmt.Errorf("build image: %w", context.Cause(ctx))
	}
	return meta, err
}

func (b *builder) upToDate() (Metadata, bool) {
	if b.Force {
		return Metadata{}, false
	}
	image, err := Open(b.Dir, b.recipe.Name)
	if err != nil || image.Metadata.Inputs != b.recipe.inputs() {
		return Metadata{}, false
	}
	return image.Metadata, true
}

// make builds under the lock.
func (b *builder) make(ctx context.Context) (_ Metadata, err error) {
	if err := b.checkHost(ctx); err != nil {
		return Metadata{}, err
	}
	if err := removeWork(b.work, b.Log); err != nil {
		return Metadata{}, fmt.Errorf("remove leftovers of an earlier build: %w", err)
	}
	if err := os.Mkdir(b.work, 0o700); err != nil {
		return Metadata{}, fmt.Errorf("make build directory: %w", err)
	}
	defer func() {
		if cleanErr := removeWork(b.work, b.Log); cleanErr != nil {
			err = errors.Join(err, fmt.Errorf("remove build directory: %w", cleanErr))
		}
	}()
	b.say.line("building image %s%s for %s from Debian %s", builtin, b.recipe.Name, b.recipe.Arch, b.recipe.Suite)
	started := time.Now()
	if err := b.say.steps(ctx, b.steps()); err != nil {
		return Metadata{}, err
	}
	meta, err := b.publish(time.Now())
	if err != nil {
		return Metadata{}, err
	}
	b.say.line("image %s is ready in %s: %s, %d MB", meta.Name, elapsed(started), b.files.File(), meta.Size/1e6)
	return meta, nil
}

func (b *builder) steps() []step {
	return []step{
		{"fetch " + b.recipe.runtimeNames() + " from the npm registry", b.fetch},
		{"install Debian packages", b.bootstrap},
		{"check the root file system", b.inspect},
		{"gather the kernel and its modules", b.gather},
		{"write the EROFS file", b.pack},
	}
}

// The files of a build below its private directory.
func (b *builder) root() string         { return filepath.Join(b.work, "root") }
func (b *builder) local() string        { return filepath.Join(b.work, "local") }
func (b *builder) script() string       { return filepath.Join(b.work, "customise.sh") }
func (b *builder) versionsFile() string { return filepath.Join(b.work, "versions") }
func (b *builder) packagesFile() string { return filepath.Join(b.work, "packages") }
func (b *builder) kernel() string       { return filepath.Join(b.work, "vmlinuz") }
func (b *builder) modules() string      { return filepath.Join(b.work, "modules") }
func (b *builder) archive() string      { return filepath.Join(b.work, "modules.cpio") }
func (b *builder) output() string       { return filepath.Join(b.work, "image.erofs") }

// checkHost tells what is missing before anything is done.
func (b *builder) checkHost(ctx context.Context) error {
	if b.euid != 0 {
		return errs.New(errs.Precondition, "NEEDS_ROOT", "building an image needs root; run it again with sudo")
	}
	if err := checkTools(ctx); err != nil {
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(b.Dir, &disk); err != nil {
		return fmt.Errorf("measure free space: %w", err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < b.space {
		return errs.New(errs.Exhausted, "NO_SPACE", "%s has %d MB free, a build needs %d MB", b.Dir, free>>20, b.space>>20)
	}
	return nil
}
