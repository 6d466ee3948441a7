//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bare runs the same image with runsc alone: what a sandbox costs without
// Atoll around it.
type bare struct {
	runsc, dir string
	network    string // runsc's kind of network
	next       int
}

func newBare(b *bench) (*bare, error) {
	dir, err := os.MkdirTemp("", "atoll-bench-")
	if err != nil {
		return nil, err
	}
	r := &bare{runsc: b.server.Program("runsc"), dir: dir, network: "none"}
	for _, d := range []string{"root", "disk", "state", "echo", "sleep"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return r, errors.Join(r.bundle("echo", "", "/bin/bash", "-c", "echo hello"), r.bundle("sleep", "", "/bin/sleep", "600"))
}

func (r *bare) remove() { _ = os.RemoveAll(r.dir) }

// bundle writes a bundle; an empty netns is a network of its own.
func (r *bare) bundle(name, netns string, args ...string) error {
	raw, err := json.Marshal(&specs.Spec{
		Version: specs.Version, Hostname: "bare",
		Root:    &specs.Root{Path: filepath.Join(r.dir, "root")},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source":  os.Getenv("ATOLL_TEST_IMAGE"),
			"dev.gvisor.spec.rootfs.type":    "erofs",
			"dev.gvisor.spec.rootfs.overlay": "memory",
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace, Path: netns},
		}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, name, "config.json"), raw, 0o600)
}

func (r *bare) command(ctx context.Context, args ...string) *exec.Cmd {
	flags := []string{"--root=" + filepath.Join(r.dir, "state"), "--network=" + r.network, "--ignore-cgroups", "--host-settings=ignore"}
	return exec.CommandContext(ctx, r.runsc, append(flags, args...)...)
}

// run times one echo in a container of its own.
func (r *bare) run(ctx context.Context) (time.Duration, error) {
	r.next++
	cmd := r.command(ctx, "run", "--bundle="+filepath.Join(r.dir, "echo"), fmt.Sprintf("bench-%d-%d", os.Getpid(), r.next))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil || !strings.Contains(out.String(), "hello") {
		return 0, fmt.Errorf("bare runsc run: %w: %s", err, out.String())
	}
	return took, nil
}

// hold runs a container that only sleeps, for exec; stop ends it.
func (r *bare) hold(ctx context.Context) (id string, stop func(), err error) {
	r.next++
	id = fmt.Sprintf("bench-%d-%d", os.Getpid(), r.next)
	cmd := r.command(ctx, "run", "--bundle="+filepath.Join(r.dir, "sleep"), id)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = r.command(ctx, "kill", id, "KILL").Run()
		_ = cmd.Wait()
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if r.command(ctx, "exec", id, "/bin/true").Run() == nil {
			return id, stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return "", nil, errors.New("the bare container does not run")
		}
	}
}

// exec times one /bin/true in a running container.
func (r *bare) exec(ctx context.Context, id string) (time.Duration, error) {
	began := time.Now()
	err := r.command(ctx, "exec", id, "/bin/true").Run()
	return time.Since(began), err
}

// newBareNetwork is a bare machine on runsc's own network, in a namespace.
func newBareNetwork(b *bench, v *veth) (*bare, error) {
	r, err := newBare(b)
	if err != nil {
		return nil, err
	}
	r.network = "sandbox"
	for _, way := range []string{"d", "u"} {
		name := "transfer-" + way
		err = errors.Join(err, os.Mkdir(filepath.Join(r.dir, name), 0o700), r.bundle(name, "/run/netns/"+v.name,
			"/usr/bin/python3", "-c", transfer, vethHost, v.peer.port(), way, fmt.Sprint(transferSize)))
	}
	return r, err
}

// transfer makes one transfer in a container of its own.
func (r *bare) transfer(ctx context.Context, way string) (time.Duration, error) {
	r.next++
	cmd := r.command(ctx, "run", "--bundle="+filepath.Join(r.dir, "transfer-"+way), fmt.Sprintf("bench-%d-%d", os.Getpid(), r.next))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("bare runsc run: %w: %s", err, stderr.String())
	}
	return parseSeconds(stdout.String(), stderr.String())
}
