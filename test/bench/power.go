//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

const (
	touchedMiB = 512
	powerRuns  = 5
)

// touch holds memory of a process that goes on; each page is another.
const touch = `
import time
pages = bytearray(%d << 20)
for at in range(0, len(pages), 4096):
    pages[at:at+8] = at.to_bytes(8, "little")
print("touched", flush=True)
while True:
    time.sleep(1)
`

// powerFigure measures pause, resume and fork of a sandbox that has touched
// 512 MiB, with each isolation.
func powerFigure(ctx context.Context, b *bench) error {
	for _, isolation := range []string{gvisor.Name, microvm.Name} {
		if err := powerOf(ctx, b, isolation); err != nil {
			return fmt.Errorf("%s: %w", isolation, err)
		}
	}
	return nil
}

func powerOf(ctx context.Context, b *bench, isolation string) error {
	server, c, err := isolated(ctx, isolation)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	s, err := c.Sandboxes.Create(ctx, client.CreateOptions{Timeout: 30 * time.Minute})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := touchMemory(ctx, s); err != nil {
		return err
	}
	p := power{ctx: ctx, bench: b, client: c, sandbox: s, what: fmt.Sprintf("%s, %d MiB touched: ", isolation, touchedMiB)}
	return errors.Join(p.inMemory(), p.fork(), p.toDisk())
}

func touchMemory(ctx context.Context, s *client.Sandbox) error {
	out, err := s.Sh(ctx, fmt.Sprintf("cat > /tmp/touch.py <<'E'\n%s\nE\nnohup python3 -u /tmp/touch.py > /tmp/touched 2>&1 &\nuntil grep -q touched /tmp/touched; do sleep 0.1; done", fmt.Sprintf(touch, touchedMiB)))
	if err != nil {
		return err
	}
	if !out.Status.Success() {
		return fmt.Errorf("touch memory: %s", out.Stderr)
	}
	return nil
}

// power measures one sandbox.
type power struct {
	ctx     context.Context
	bench   *bench
	client  *client.Client
	sandbox *client.Sandbox
	what    string
}

// inMemory measures a pause, and how long the echo takes that ends it.
func (p *power) inMemory() error {
	var pause, resume []time.Duration
	for range powerRuns {
		began := time.Now()
		if _, err := p.sandbox.Pause(p.ctx); err != nil {
			return err
		}
		pause = append(pause, time.Since(began))
		began = time.Now()
		if err := echo(p.ctx, p.sandbox); err != nil {
			return err
		}
		resume = append(resume, time.Since(began))
	}
	p.bench.add(p.what+"pause in memory, and resume to an echo", spread(pause), spread(resume), "")
	return nil
}

// toDisk measures the same with the memory written to disk. The connection
// ends with each.
func (p *power) toDisk() error {
	var pause, resume []time.Duration
	var bytes int64
	for range powerRuns {
		began := time.Now()
		result, err := p.client.Sandboxes.Pause(p.ctx, p.sandbox.ID(), true)
		if err != nil {
			return err
		}
		pause, bytes = append(pause, time.Since(began)), result.Bytes
		began = time.Now()
		s, err := p.client.Sandboxes.Connect(p.ctx, p.sandbox.ID())
		if err != nil {
			return err
		}
		if err := errors.Join(echo(p.ctx, s), s.Close()); err != nil {
			return err
		}
		resume = append(resume, time.Since(began))
	}
	p.bench.add(fmt.Sprintf("%spause to disk (%d MiB written), and resume to an echo", p.what, bytes>>20), spread(pause), spread(resume), "")
	return nil
}

// fork measures until a child answers, and how long the parent did not.
func (p *power) fork() error {
	const most = 4
	before, err := charged(cgroup.ShimName(p.sandbox.ID()))
	if err != nil {
		return err
	}
	for _, count := range []int{1, most} {
		var answered, silent []time.Duration
		var each, all int64
		for range powerRuns {
			stop, longest := p.watch()
			began := time.Now()
			children, err := p.client.Sandboxes.Fork(p.ctx, p.sandbox.ID(), client.ForkOptions{Count: count})
			if err == nil {
				err = p.visit(children)
			}
			answered = append(answered, time.Since(began))
			stop()
			silent = append(silent, <-longest)
			if err != nil {
				return err
			}
			if each, all, err = p.added(children, before); err != nil {
				return err
			}
			if err := p.end(children, before); err != nil {
				return err
			}
		}
		p.bench.add(fmt.Sprintf("%sfork into %d, until all answered an echo", p.what, count), spread(answered),
			fmt.Sprintf("longest silence of the parent %s; charged: %d MiB to each child, %d to the parent's shim for all", spread(silent), each>>20, all>>20), "")
	}
	return nil
}

// added is what control groups are charged with for children: to each of them,
// its shim included, and to the parent's shim for all, beyond what it was
// before.
func (p *power) added(children []api.Sandbox, before int64) (each, all int64, err error) {
	for _, child := range children {
		for _, group := range []string{child.ID, cgroup.ShimName(child.ID)} {
			bytes, err := charged(group)
			if err != nil {
				return 0, 0, err
			}
			each += bytes / int64(len(children))
		}
	}
	after, err := charged(cgroup.ShimName(p.sandbox.ID()))
	return each, after - before, err
}

func charged(group string) (int64, error) { return cgroup.Open(group).MemoryBytes() }

func (p *power) visit(children []api.Sandbox) error {
	for _, child := range children {
		s, err := p.client.Sandboxes.Connect(p.ctx, child.ID)
		if err != nil {
			return err
		}
		if err := errors.Join(echo(p.ctx, s), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// end ends children and waits until the memory that they shared is free again.
func (p *power) end(children []api.Sandbox, before int64) error {
	for _, child := range children {
		if err := p.client.Sandboxes.Kill(p.ctx, child.ID); err != nil {
			return err
		}
	}
	const slack = 32 << 20
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		now, err := charged(cgroup.ShimName(p.sandbox.ID()))
		if err != nil || now < before+slack {
			return err
		}
	}
	return errors.New("the memory of ended children is not free")
}

// watch asks the parent for a variable over and over, until stop is called,
// and delivers the longest time that an answer took.
func (p *power) watch() (stop func(), longest <-chan time.Duration) {
	done, result := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		for {
			select {
			case <-done:
				result <- most
				return
			default:
			}
			began := time.Now()
			if _, _, err := p.sandbox.Env.Get(p.ctx, "HOME"); err != nil {
				result <- 0
				return
			}
			most = max(most, time.Since(began))
		}
	}()
	return func() { close(done) }, result
}
