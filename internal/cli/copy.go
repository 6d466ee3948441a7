package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/client"
)

type copyOptions struct {
	*global
	quiet bool
	paths []string
}

func newCopy(g *global, io IO) *cobra.Command {
	o := &copyOptions{global: g}
	cmd := &cobra.Command{
		Use:     "cp <source>... <destination>",
		Aliases: []string{"copy"},
		Short:   "Copy files between this machine and sandboxes",
		Long: `Cp copies files and directories. <id>:<path> names a path in a sandbox, all
else is a path on this machine (./x:y for one that looks otherwise). Relative
paths in a sandbox start at its home directory.

A source goes into the destination if that is a directory, ends in a slash, or
there are several sources; a source that ends in "/." stands for its contents.
Directories are copied with all they hold and merged into existing ones;
symbolic links stay links; permission bits are kept, set-uid and set-gid bits
and owners are not. Other kinds of files are skipped with a warning. Nothing
is ever written outside the destination, whatever a sandbox claims to hold.

With --json it prints one object with the fields files, directories, symlinks,
skipped and bytes.`,
		Example: `  atoll cp ./src sbx_ord_0123456789abcdefghjk:
  atoll cp sbx_ord_0123456789abcdefghjk:result.json .`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, paths []string) error {
			o.paths = paths
			return runCopy(cmd.Context(), o, io)
		},
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// place is one side of a copy: a path, in a sandbox if id is set.
type place struct{ id, path string }

var placePattern = regexp.MustCompile(`^(sbx_[a-z]{3}_[0-9a-hjkmnp-z]{20}):(.*)$`)

func parsePlace(s string) place {
	if m := placePattern.FindStringSubmatch(s); m != nil {
		if m[2] == "" {
			m[2] = "."
		}
		return place{m[1], m[2]}
	}
	return place{path: s}
}

// into reports whether the path itself says that it is a directory.
func (p place) into() bool { return strings.HasSuffix(p.path, "/") || baseName(p.path) == "." }

// baseName is the name that a source gets inside a destination directory;
// "." for a source that stands for its contents.
func baseName(p string) string {
	if strings.HasSuffix(p, "/.") || p == "." || p == "" {
		return "."
	}
	if base := path.Base(p); base != ".." && base != "/" {
		return base
	}
	return "."
}

func runCopy(ctx context.Context, o *copyOptions, io IO) error {
	sources := make([]place, 0, len(o.paths)-1)
	for _, p := range o.paths[:len(o.paths)-1] {
		sources = append(sources, parsePlace(p))
	}
	target := parsePlace(o.paths[len(o.paths)-1])
	show := &progress{err: io.Err, draw: io.Terminal && !o.quiet && !o.json}
	remotes := &connections{global: o.global, io: io, open: map[string]*client.Sandbox{}}
	defer remotes.close()
	if err := copyAll(ctx, remotes, sources, target, show); err != nil {
		show.finish()
		return err
	}
	show.finish()
	if o.json {
		return printJSON(io.Out, show.totals())
	}
	return nil
}

func copyAll(ctx context.Context, remotes *connections, sources []place, target place, show *progress) error {
	inside, err := isDirectory(ctx, remotes, target)
	if err != nil {
		return err
	}
	if len(sources) > 1 && !inside && !target.into() {
		return usage(target.path + " is not a directory; several sources need one (or a trailing slash)")
	}
	for _, source := range sources {
		if err := copyOne(ctx, remotes, source, target, inside || target.into(), show); err != nil {
			return fmt.Errorf("copy %s: %w", source.path, err)
		}
	}
	return nil
}

// isDirectory looks at an existing destination.
func isDirectory(ctx context.Context, remotes *connections, p place) (bool, error) {
	if p.id == "" {
		info, err := os.Stat(p.path)
		return err == nil && info.IsDir(), nil
	}
	sb, err := remotes.get(ctx, p.id)
	if err != nil {
		return false, err
	}
	info, err := sb.FS.Stat(ctx, p.path)
	if _, ok := errors.AsType[*client.Error](err); ok {
		return false, nil
	}
	return info.IsDirectory, err
}

// copyOne copies one source to target or, with inside, into it.
func copyOne(ctx context.Context, remotes *connections, source, target place, inside bool, show *progress) error {
	from, err := remotes.source(ctx, source)
	if err != nil {
		return err
	}
	job := copyJob{from: from, progress: show}
	name := "."
	if inside {
		name = baseName(source.path)
	}
	if target.id != "" {
		sb, err := remotes.get(ctx, target.id)
		if err != nil {
			return err
		}
		job.to = &remoteTree{fs: sb.FS}
		return job.copy(ctx, source.path, joinRemote(target.path, name))
	}
	base, name := localTarget(target.path, name, inside)
	if inside {
		if err := os.MkdirAll(base, 0o777); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	job.to = rootTree{root}
	return job.copy(ctx, source.path, name)
}

// localTarget splits a destination into the directory that nothing may leave
// and a name in it.
func localTarget(target, name string, inside bool) (base, rel string) {
	if inside {
		return target, name
	}
	return filepath.Dir(target), filepath.Base(target)
}

func joinRemote(dir, name string) string {
	if name == "." {
		return dir
	}
	return path.Join(dir, name)
}

// connections holds one connection per sandbox of a command.
type connections struct {
	*global
	io   IO
	api  *client.Client
	open map[string]*client.Sandbox
}

func (c *connections) get(ctx context.Context, id string) (*client.Sandbox, error) {
	if sb := c.open[id]; sb != nil {
		return sb, nil
	}
	if c.api == nil {
		api, err := c.client(c.io.Getenv)
		if err != nil {
			return nil, err
		}
		c.api = api
	}
	sb, err := c.api.Sandboxes.Connect(ctx, id)
	if err != nil {
		return nil, err
	}
	c.open[id] = sb
	return sb, nil
}

func (c *connections) source(ctx context.Context, p place) (source, error) {
	if p.id == "" {
		return localSource{}, nil
	}
	sb, err := c.get(ctx, p.id)
	if err != nil {
		return nil, err
	}
	return &remoteTree{fs: sb.FS}, nil
}

func (c *connections) close() {
	for _, sb := range c.open {
		_ = sb.Close()
	}
}
