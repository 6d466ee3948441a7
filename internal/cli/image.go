package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/disk/image"
)

func newImage(g *global, io IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build and list the images that sandboxes start from",
	}
	needsVerb(cmd)
	cmd.AddCommand(newImageBuild(g, io), newImageList(g, io))
	return cmd
}

// imageDir is where the server on this host keeps its images.
func imageDir(s config.Server) string { return s.ImageFiles().Dir }

type imageBuildOptions struct {
	*global
	dir    string
	arch   string
	mirror string
	force  bool
	quiet  bool
}

func newImageBuild(g *global, io IO) *cobra.Command {
	o := &imageBuildOptions{global: g}
	cmd := &cobra.Command{
		Use:   "build [name]",
		Short: "Build an image, unless it is there already",
		Long: `Build makes an image (builtin:debian-13 unless named) and prints its digest. It
needs root, the programs that "atoll doctor" names, and the registries of
Debian and npm, as this host is set up to reach them. With --json it prints
the image's metadata. An interrupted build leaves nothing behind; a build of
what is there already does nothing.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			name := image.DefaultName
			if len(names) == 1 {
				name = names[0]
			}
			return runImageBuild(cmd.Context(), o, name, io)
		},
	}
	cmd.Flags().StringVar(&o.dir, "image-dir", "", "directory of images (default: the server's)")
	cmd.Flags().StringVar(&o.arch, "arch", "", `"amd64" or "arm64" (default: this host's)`)
	cmd.Flags().StringVar(&o.mirror, "mirror", "", "Debian mirror to use in place of the default one")
	cmd.Flags().BoolVar(&o.force, "force", false, "build even if the same image is there")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func runImageBuild(ctx context.Context, o *imageBuildOptions, name string, io IO) error {
	options := image.Options{
		Dir: o.dir, Name: name, Arch: o.arch, Mirror: o.mirror, Force: o.force, Progress: io.Err,
	}
	if options.Dir == "" {
		options.Dir = imageDir(o.server(io.Getenv))
	}
	if o.quiet {
		options.Progress = nil
	}
	meta, err := image.Build(ctx, options)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(io.Out, meta)
	}
	_, err = fmt.Fprintf(io.Out, "%s %s\n", meta.Name, meta.Digest)
	return err
}

type imageListOptions struct {
	*global
	dir string
}

func newImageList(g *global, io IO) *cobra.Command {
	o := &imageListOptions{global: g}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List images",
		Args:    args(cobra.NoArgs),
		RunE:    func(*cobra.Command, []string) error { return runImageList(o, io) },
	}
	cmd.Flags().StringVar(&o.dir, "image-dir", "", "directory of images (default: the server's)")
	return cmd
}

// runImageList shows the good images and fails if there are damaged ones.
func runImageList(o *imageListOptions, io IO) error {
	dir := o.dir
	if dir == "" {
		dir = imageDir(o.server(io.Getenv))
	}
	images, damaged := image.List(dir)
	if o.json {
		metas := []image.Metadata{}
		for _, i := range images {
			metas = append(metas, i.Metadata)
		}
		return errors.Join(damaged, printJSON(io.Out, metas))
	}
	w := tabwriter.NewWriter(io.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tARCH\tLINUX\tSIZE\tAGE\tDIGEST")
	for _, i := range images {
		m := i.Metadata
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.19s\n", m.Name, m.Arch, m.Versions["linux"], size(float64(m.Size)), age(time.Since(m.Created)), m.Digest)
	}
	return errors.Join(damaged, w.Flush())
}
