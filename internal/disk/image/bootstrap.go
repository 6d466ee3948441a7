package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bootstrap makes the root: Debian's packages, then the customise script.
func (b *builder) bootstrap(ctx context.Context) error {
	// mmdebstrap runs the script by its path, as one word.
	if err := os.WriteFile(b.script(), b.recipe.Customise, 0o700); err != nil {
		return fmt.Errorf("write customise script: %w", err)
	}
	if err := b.tools.run(ctx, b.work, "mmdebstrap", bootstrapArgs(b.recipe, b.script(), b.root())...); err != nil {
		return err
	}
	return b.anonymise()
}

func bootstrapArgs(r recipe, script, root string) []string {
	args := []string{
		"--mode=root",
		"--format=directory",
		"--variant=minbase",
		"--architectures=" + r.Arch,
		"--include=" + strings.Join(r.Packages, ","),
		"--customize-hook=" + script,
		r.Suite, root,
	}
	if r.Mirror != "" {
		args = append(args, r.Mirror)
	}
	return args
}

// anonymous are files that must say nothing of the host that built the image,
// and must not be the same in two sandboxes. The agent writes them at start.
// mmdebstrap sets them itself at its end, so the customise script cannot.
var anonymous = map[string]string{
	"etc/machine-id":  "",
	"etc/resolv.conf": "",
	"etc/hostname":    "sandbox\n",
	"etc/hosts":       "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n",
}

func (b *builder) anonymise() error {
	for name, text := range anonymous {
		path := filepath.Join(b.root(), name)
		// Never through a link: it would be followed on the host.
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
	}
	return nil
}

// pack writes the file system. The driver maps the file into memory, which
// needs data that is neither compressed nor stored inside of inodes. Times of
// files are kept: compiled Python is only used with the time it was made for.
func (b *builder) pack(ctx context.Context) error {
	err := b.tools.run(ctx, b.work, "mkfs.erofs", packArgs(b.recipe, b.output(), b.root())...)
	if err != nil {
		return err
	}
	if err := syncFile(b.output()); err != nil {
		return fmt.Errorf("write image to disk: %w", err)
	}
	b.made.Part, err = digestFile(ctx, b.output())
	if err != nil {
		return fmt.Errorf("compute digest: %w", err)
	}
	return nil
}

func packArgs(r recipe, output, root string) []string {
	return []string{"-E", "noinline_data", "-U", r.uuid(), "--quiet", output, root}
}
