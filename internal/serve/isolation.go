package serve

import (
	"context"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/isolation"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/shim/launch"
)

// isolated is how this server isolates, decided once.
type isolated struct {
	choice   isolation.Choice
	programs launch.Binaries

	// Of the goroutine that makes the template of the default size; nil if
	// there is none.
	halt     context.CancelFunc
	prepared chan struct{} // closed when it has ended
}

func (d *daemon) chooseIsolation(ctx context.Context) (err error) {
	i := &d.isolation
	if d.options.Launcher != nil { // its machines are none of this host's
		if i.choice.Driver = d.cfg.Isolation; i.choice.Driver == config.IsolationAuto {
			i.choice.Driver = gvisor.Name
		}
		return nil
	}
	if i.programs, err = programs(d.cfg); err != nil {
		return err
	}
	own := isolation.Programs{Shim: i.programs.Shim, Agent: i.programs.Agent}
	if i.choice, err = isolation.Choose(ctx, d.cfg, own, d.log); err != nil {
		return err
	}
	if i.choice.Templates != nil && exists(d.cfg.ImageFiles().Kernel()) {
		d.prepareTemplate(own)
	}
	return nil
}

// prepareTemplate makes the template of the default size while the server
// starts.
func (d *daemon) prepareTemplate(own isolation.Programs) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.isolation.halt, d.isolation.prepared = cancel, done
	go func() {
		defer close(done)
		if err := d.isolation.choice.Prepare(ctx, d.cfg, own); err != nil && ctx.Err() == nil {
			d.log.Warn("make the template of the default size; machines boot until there is one", "error", err)
		}
	}()
}

func (d *daemon) leaveIsolation(context.Context) error {
	if d.isolation.halt != nil {
		d.isolation.halt()
		<-d.isolation.prepared
	}
	return d.isolation.choice.Close()
}
