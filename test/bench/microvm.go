//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/shim/wire"
	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	boots      = 5  // from cold, each of seconds without KVM
	vmsAtOnce  = 20 // microVMs started at the same time
	vmMemory   = 1280 << 20
	vmDisk     = 10 << 30
	idleVMs    = 10
	vmPatience = 5 * time.Minute
)

// vms makes microVMs without a server.
type vms struct {
	driver    *microvm.Driver
	spec      machine.Spec
	templates *microvm.Templates
	dir       string
	made      int
}

func newVMs() (*vms, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "atoll-bench-")
	if err != nil {
		return nil, err
	}
	accel, _ := microvm.Accelerate()
	bin, image := os.Getenv("ATOLL_TEST_BIN"), os.Getenv("ATOLL_TEST_IMAGE")
	base := strings.TrimSuffix(image, ".erofs")
	v := &vms{dir: dir, driver: microvm.New(microvm.Config{
		QEMU: qemu, Jail: filepath.Join(bin, "atoll-shim"), Accel: accel, Log: slog.New(slog.DiscardHandler),
	})}
	v.spec = machine.Spec{
		Hostname: "bench", Image: machine.Image{File: image, Kernel: base + ".vmlinuz", Modules: base + ".modules"},
		Agent: filepath.Join(bin, "atoll-agent"), MemoryBytes: vmMemory, CPUs: 2, DiskBytes: vmDisk, Network: wire.Network(),
	}
	v.templates, err = microvm.NewTemplates(filepath.Join(dir, "templates"), v.driver, v.driver.Log)
	return v, err
}

func (v *vms) remove() { _, _ = v.templates.Close(), os.RemoveAll(v.dir) }

// started is how long a machine took.
type started struct{ agent, system time.Duration } // until the agent's first answer, and until it serves calls

// start starts a machine and ends it again.
func (v *vms) start(ctx context.Context, template *machine.Snapshot) (s started, err error) {
	v.made++
	spec := v.spec
	spec.ID, spec.Dir, spec.Template = fmt.Sprintf("bench-%d-%d", os.Getpid(), v.made), filepath.Join(v.dir, fmt.Sprint(v.made)), template
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		return s, err
	}
	var card *os.File
	spec.AttachNIC = func(nic machine.NIC) error { card = nic.File; return nil }
	began := time.Now()
	m, err := v.driver.Start(ctx, spec)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, m.Destroy(context.WithoutCancel(ctx)), card.Close()) }()
	session, err := link.Open(ctx, m.Link(), 1)
	if err != nil {
		return s, err
	}
	defer func() { _ = session.Close() }()
	s.agent = time.Since(began)
	control, err := session.Dial(ctx, link.KindControl, struct{}{})
	if err != nil {
		return s, err
	}
	boot := m.(machine.Booter).Boot()
	config := link.Config{
		Generation: 1, Hostname: "bench", MemoryBytes: vmMemory, TimeUnixNs: time.Now().UnixNano(), Boot: &boot,
		UserID: 1000, GroupID: 1000, User: "app", Home: "/home/app", MaxMessage: 1 << 20, Entropy: make([]byte, 64),
	}
	var ready link.Ready
	if err := errors.Join(link.SendControl(control, config), link.ReceiveControl(control, &ready)); err != nil || ready.Error != "" {
		return s, errors.Join(err, errors.New(ready.Error))
	}
	s.system = time.Since(began)
	return s, nil
}

// microvmFigure measures starts: by booting and from a template, in turns;
// then many at once, and idle ones, of a server.
func microvmFigure(ctx context.Context, b *bench) error {
	v, err := newVMs()
	if err != nil {
		return err
	}
	defer v.remove()
	template, err := v.templates.Get(ctx, v.spec)
	if err != nil {
		return err
	}
	if _, err := v.start(ctx, template); err != nil { // caches
		return err
	}
	var cold, warm [2][]time.Duration
	add := func(to *[2][]time.Duration, from *machine.Snapshot) error {
		s, err := v.start(ctx, from)
		to[0], to[1] = append(to[0], s.agent), append(to[1], s.system)
		return err
	}
	for range boots {
		if err := add(&cold, nil); err != nil {
			return err
		}
		for range 4 {
			if err := add(&warm, template); err != nil {
				return err
			}
		}
	}
	how := "microVM (" + string(v.driver.Accel) + "), "
	b.add(how+"template start to the agent's first answer, beside a boot", spread(warm[0]), spread(cold[0]), ratio(cold[0], warm[0]))
	b.add(how+"the same until it serves calls", spread(warm[1]), spread(cold[1]), ratio(cold[1], warm[1]))
	return microvmServer(ctx, b, how)
}

func microvmServer(ctx context.Context, b *bench, how string) error {
	server, c, err := isolated(ctx, microvm.Name)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	if err := echoOnce(ctx, c); err != nil { // the template is there
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, vmPatience)
	defer cancel()
	var waiting sync.WaitGroup
	took, failures := make([]time.Duration, vmsAtOnce), make([]error, vmsAtOnce)
	began := time.Now()
	for i := range vmsAtOnce {
		waiting.Go(func() {
			failures[i] = echoOnce(ctx, c)
			took[i] = time.Since(began)
		})
	}
	waiting.Wait()
	if err := errors.Join(failures...); err != nil {
		fmt.Fprintln(os.Stderr, "  failed:", err)
	}
	succeeded := 0
	for _, err := range failures {
		if err == nil {
			succeeded++
		}
	}
	b.add(fmt.Sprintf("%s%d creations at once, each with an echo", how, vmsAtOnce), fmt.Sprintf("%d succeed, wall %s", succeeded, ms(time.Since(began))), spread(took), "")
	return idleMicrovms(ctx, b, c, how)
}

// idleMicrovms counts what control groups are charged with, and the shims.
func idleMicrovms(ctx context.Context, b *bench, c *client.Client, how string) error {
	var all []*client.Sandbox
	defer func() {
		for _, s := range all {
			_ = s.Close()
		}
	}()
	for range idleVMs {
		s, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
		if err != nil {
			return err
		}
		all = append(all, s)
		if err := echo(ctx, s); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	var charged, qemu, shims int64
	for _, s := range all {
		bytes, err := cgroup.Open(s.ID()).MemoryBytes()
		if err != nil {
			return err
		}
		charged += bytes
		for _, pid := range cgroup.Open(s.ID()).PIDs() {
			kib, err := pssOf(pid)
			if err != nil {
				return err
			}
			qemu += kib << 10
		}
		for _, pid := range cgroup.Open(cgroup.ShimName(s.ID())).PIDs() {
			kib, err := pssOf(pid)
			if err != nil {
				return err
			}
			shims += kib << 10
		}
	}
	b.add(fmt.Sprintf("%sidle memory, %d running", how, idleVMs), fmt.Sprintf("%.1f MiB (PSS)", mib(qemu+shims)/idleVMs),
		fmt.Sprintf("qemu %.1f, shim %.1f; charged to the machine %.1f", mib(qemu)/idleVMs, mib(shims)/idleVMs, mib(charged)/idleVMs), "")
	return nil
}

// isolated starts a server of its own.
func isolated(ctx context.Context, isolation string) (*harness.Server, *client.Client, error) {
	server, err := harness.Start(ctx, "--isolation", isolation, "--max-sandboxes", "100", "--log-level", "warn", "--spares=0")
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(client.Options{Endpoint: server.URL, Token: server.Token})
	if err != nil {
		return nil, nil, errors.Join(err, server.Close())
	}
	return server, c, nil
}

func echoOnce(ctx context.Context, c *client.Client) error {
	s, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return err
	}
	return errors.Join(echo(ctx, s), s.Close())
}
