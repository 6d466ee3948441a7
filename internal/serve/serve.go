// Package serve is `atoll serve`: it puts the parts of the daemon together as
// a table of services that start in order and stop in reverse.
//
// It also opens the data directory for the commands that work on it without
// the daemon (tokens).
package serve

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/cgroup"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/httpapi"
	"github.com/atollhq/atoll/internal/lifecycle"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/obs"
	"github.com/atollhq/atoll/internal/sandbox"
	"github.com/atollhq/atoll/internal/store"
)

// Options are what a server takes besides its settings.
type Options struct {
	Launcher sandbox.Launcher // nil is the one that starts real shims
	Version  string
	Ready    func(url string) // called once the server answers; may be nil
}

// Run runs the server until ctx ends, and stops it. The error is nil when it
// did both.
func Run(ctx context.Context, cfg config.Server, log *slog.Logger) error {
	return RunWith(ctx, cfg, log, Options{})
}

// RunWith is Run with options.
func RunWith(ctx context.Context, cfg config.Server, log *slog.Logger, o Options) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	d := &daemon{cfg: cfg, log: log, options: o, failed: make(chan error, 1)}
	group := lifecycle.Group{Log: log, StopTimeout: cfg.StopTimeout}
	if err := group.Start(ctx, d.services()...); err != nil {
		return err
	}
	how := d.isolation.choice
	log.Info("server ready", "url", d.url, "regions", cfg.Regions, "isolation", how.Driver, "acceleration", cmp.Or(how.Accel, "none"))
	notify("READY=1")
	if o.Ready != nil {
		o.Ready(d.url)
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-d.failed:
	}
	log.Info("server stopping")
	notify("STOPPING=1")
	return errors.Join(failure, group.Stop(context.WithoutCancel(ctx)))
}

// daemon holds the parts while the services start. Each part is set by one
// service and used by those below it in the table.
type daemon struct {
	cfg     config.Server
	log     *slog.Logger
	options Options
	failed  chan error // what ends the server while it runs

	lock      *os.File
	store     *store.Store
	isolation isolated
	keeper    *auth.Keeper
	audit     *obs.Audit
	metrics   *obs.Metrics
	manager   *sandbox.Manager
	listener  net.Listener
	http      *http.Server
	serving   chan struct{} // closed when the HTTP server has returned
	keeping   chan struct{} // closed when housekeeping has ended
	halt      context.CancelFunc
	url       string
}

// services is the daemon, in the order of starting.
func (d *daemon) services() []lifecycle.Service {
	return []lifecycle.Service{
		{Name: "data directory", Start: d.openData, Stop: func(context.Context) error { return d.lock.Close() }},
		{Name: "store", Start: d.openStore, Stop: func(context.Context) error { return d.store.Close() }},
		{Name: "identity", Start: d.ensureIdentity},
		{Name: "audit log", Start: d.openAudit, Stop: func(ctx context.Context) error { return d.audit.Close(ctx) }},
		{Name: "isolation", Start: d.chooseIsolation, Stop: d.leaveIsolation},
		{Name: "listener", Start: d.listen, Stop: d.closeListener},
		{Name: "HTTP server", Start: d.prepareHTTP, Stop: d.stopHTTP},
		{Name: "sandboxes", Start: d.recoverSandboxes, Stop: d.stopSandboxes},
		{Name: "housekeeping", Start: d.startHousekeeping, Stop: d.stopHousekeeping},
		{Name: "API", Start: d.serveHTTP},
	}
}

func (d *daemon) openData(context.Context) error {
	data := d.cfg.Data()
	for _, dir := range []string{data.Dir, data.Sandboxes(), data.Images(), data.Audits()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	lock, err := lockFile(data.LockFile())
	d.lock = lock
	return err
}

func (d *daemon) openStore(ctx context.Context) (err error) {
	d.store, err = store.Open(ctx, d.cfg.Data().Database())
	return err
}

// ensureIdentity makes the first organisation and its token.
func (d *daemon) ensureIdentity(ctx context.Context) error {
	d.keeper = auth.NewKeeper(d.store, d.log)
	made, err := d.keeper.EnsureOrg(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.cfg.Data().TokenFile()); !made && !errors.Is(err, os.ErrNotExist) {
		return err
	} else if !made {
		return d.warnNoToken(ctx)
	}
	return d.writeFirstToken(ctx)
}

// warnNoToken: the file may have been moved away on purpose, unless the first
// start ended before it made the token.
func (d *daemon) warnNoToken(ctx context.Context) error {
	tokens, err := d.keeper.List(ctx)
	if err != nil || len(tokens) > 0 {
		return err
	}
	return d.writeFirstToken(ctx)
}

func (d *daemon) writeFirstToken(ctx context.Context) error {
	token, _, err := d.keeper.Create(ctx, auth.DefaultOrg, "made on first start", false)
	if err != nil {
		return err
	}
	path := d.cfg.Data().TokenFile()
	if err := writeFile(path, token+"\n", 0o600); err != nil {
		return err
	}
	d.log.Info("access token made", "file", path)
	return nil
}

func (d *daemon) openAudit(context.Context) (err error) {
	d.audit, err = obs.OpenAudit(d.cfg.Data().AuditLog(), int64(d.cfg.AuditMaxMiB)<<20)
	return err
}

func (d *daemon) listen(ctx context.Context) (err error) {
	var lc net.ListenConfig
	d.listener, err = lc.Listen(ctx, "tcp", d.cfg.Listen)
	return err
}

func (d *daemon) closeListener(context.Context) error {
	if err := d.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err // the HTTP server usually closed it
	}
	return nil
}

// recoverSandboxes makes the manager and finds what an earlier daemon left.
func (d *daemon) recoverSandboxes(ctx context.Context) error {
	if err := d.manager.Recover(ctx); err != nil {
		return err
	}
	d.manager.Refill()
	return nil
}

func (d *daemon) stopSandboxes(ctx context.Context) error {
	var err error
	if d.cfg.StopSandboxes {
		err = d.manager.StopAll(ctx)
	}
	err = errors.Join(err, d.manager.Shutdown(ctx))
	if d.options.Launcher == nil { // real machines
		cgroup.RemoveParent()
	}
	return err
}

func (d *daemon) newManager(ctx context.Context) (*sandbox.Manager, error) {
	template, err := d.template()
	if err != nil {
		return nil, err
	}
	ceilings, err := d.ceilings(ctx)
	if err != nil {
		return nil, err
	}
	launcher := d.options.Launcher
	if launcher == nil {
		if launcher, err = newLauncher(d.cfg, d.isolation.programs, d.isolation.choice, d.log); err != nil {
			return nil, err
		}
	}
	l := d.cfg.Limits
	return sandbox.NewManager(sandbox.Options{
		Store: d.store, Launcher: launcher, Observer: observer{d.metrics, d.audit}, Log: d.log,
		Template: template, Ceilings: ceilings, Data: d.cfg.Data(),
		Features:     features(),
		Spare:        sandbox.SpareSpec{Count: l.Spares, Region: d.cfg.Regions[0], MemoryMiB: l.MemoryDefaultMiB},
		MaxSandboxes: l.Sandboxes, MaxPerOrg: l.SandboxesPerOrg, Starts: l.StartLimit(),
		MinFreeMemory: int64(l.FreeMemoryMiB) << 20, FreeMemory: sandbox.FreeMemory,
		StartTimeout: sandbox.DefaultStartTimeout, StopTimeout: sandbox.DefaultStopTimeout,
		MaxExtend: d.cfg.MaxExtend, MaxPaused: d.cfg.MaxPaused, SessionGrace: d.cfg.SessionGrace, Retention: d.cfg.StoppedRetention,
	}), nil
}

// template is what all sandboxes of this server have in common.
func (d *daemon) template() (sandbox.ShimSpec, error) {
	l, n, image := d.cfg.Limits, d.cfg.Network, d.cfg.ImageFiles()
	spec := sandbox.ShimSpec{
		Driver: d.isolation.choice.Driver,
		Image:  machine.Image{File: image.File(), Kernel: image.Kernel(), Modules: image.Modules()},
		CPUs:   l.CPUs, MaxPIDs: int64(l.PIDs), DiskBytes: int64(l.DiskMiB) << 20,
		MaxMessage: api.MaxClientMessage,
		Exceptions: n.Exceptions, Resolvers: n.Resolvers, HostOverrides: n.HostOverrides,
		Strict: n.Strict, Proxy: sandbox.Proxy(n.Proxy), AuditMaxBytes: int64(n.AuditMaxMiB) << 20,
	}
	var err error
	spec.ExtraRootsPEM, err = extraRoots(n.ExtraRoots, hostRootsDir)
	return spec, err
}

// ceilings are the operator's allow-lists. One for an organisation that does
// not exist is a mistake that would leave another without its limit.
func (d *daemon) ceilings(ctx context.Context) (sandbox.Ceilings, error) {
	general, named := d.cfg.Network.Ceilings()
	byID := map[string][]string{}
	for name, entries := range named {
		org, err := d.store.Org(ctx, name)
		if errors.Is(err, errs.NotFound) {
			return sandbox.Ceilings{}, errs.Wrap(err, errs.Invalid, "INVALID_SETTINGS", "net_ceiling: there is no organisation %q", name)
		}
		if err != nil {
			return sandbox.Ceilings{}, err
		}
		byID[org.ID] = append(byID[org.ID], entries...)
	}
	c, err := sandbox.NewCeilings(general, byID)
	if err != nil {
		return c, errs.Wrap(err, errs.Invalid, "INVALID_SETTINGS", "net_ceiling: %v", err)
	}
	return c, nil
}

// observer feeds metrics and audit log.
type observer struct {
	*obs.Metrics
	audit *obs.Audit
}

// SandboxStopped implements sandbox.Observer.
func (o observer) SandboxStopped(id, org, reason string) {
	o.Metrics.SandboxStopped(reason)
	o.audit.Record(obs.Event{Action: "stopped", Sandbox: id, Org: org, Outcome: reason})
}

// PowerChanged implements sandbox.Observer.
func (o observer) PowerChanged(id, org, power string, took time.Duration) {
	o.Metrics.PowerChanged(power, took)
	o.audit.Record(obs.Event{Action: "power", Sandbox: id, Org: org, Outcome: power})
}

const purgeEvery = time.Hour

func (d *daemon) startHousekeeping(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	d.halt, d.keeping = cancel, make(chan struct{})
	go func() {
		defer close(d.keeping)
		tick := time.NewTicker(purgeEvery)
		defer tick.Stop()
		for {
			if err := d.manager.Purge(ctx); err != nil && ctx.Err() == nil {
				d.log.Error("forget old sandboxes", "error", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

func (d *daemon) stopHousekeeping(context.Context) error {
	d.halt()
	<-d.keeping
	return nil
}

// limits are those that a sandbox's configuration is held against.
func (d *daemon) limits() sandbox.Limits {
	l := d.cfg.Limits
	return sandbox.Limits{
		MemoryMinMiB: l.MemoryMinMiB, MemoryMaxMiB: l.MemoryMaxMiB, MemoryDefaultMiB: l.MemoryDefaultMiB,
		Labels: l.Labels, Forks: l.Forks, MaxLifetime: d.cfg.MaxLifetime,
		Regions: d.cfg.Regions, Isolations: []string{d.isolation.choice.Driver},
		// No connection is opened yet: a list of names could be evaded inside of
		// one, and a secret would never be put in.
	}
}

// writeFile replaces a file at once, so that a reader never sees half of it.
func writeFile(path, text string, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// prepareHTTP makes the server that serveHTTP runs: what it serves must exist
// before sandboxes are found again, and stop after they were let go.
func (d *daemon) prepareHTTP(ctx context.Context) (err error) {
	d.metrics = obs.NewMetrics()
	if d.manager, err = d.newManager(ctx); err != nil {
		return err
	}
	d.http = &http.Server{
		Handler: httpapi.New(httpapi.Options{
			Sandboxes: d.manager, Auth: d.keeper, Audit: d.audit, Metrics: d.metrics, Log: d.log,
			Limits: d.limits(), MaxMessage: api.MaxClientMessage, DeadAfter: d.cfg.ClientDeadAfter, Version: d.options.Version,
		}),
		ReadHeaderTimeout: httpapi.HeaderTimeout,
		IdleTimeout:       httpapi.IdleTimeout,
		MaxHeaderBytes:    httpapi.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	return nil
}
