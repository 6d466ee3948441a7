//go:build e2e

package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/gvisor"
	"github.com/atollhq/atoll/internal/machine/microvm"
	"github.com/atollhq/atoll/internal/shim/launch"
)

// Patience bounds each step of starting and stopping.
var Patience = slower(60 * time.Second)

// SlownessVariable says by how much longer than usual things may take:
// emulated microVMs are slow.
const SlownessVariable = "ATOLL_TEST_SLOWNESS"

func slower(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(cmp.Or(os.Getenv(SlownessVariable), "1"))
	if err != nil || factor < 1 {
		panic(SlownessVariable + " is not a positive number")
	}
	return d * time.Duration(factor)
}

// IsolationVariable says how the servers of a run isolate: "gvisor", which is
// the default, or "microvm".
const IsolationVariable = "ATOLL_TEST_ISOLATION"

// Isolation is how the servers of this run isolate.
func Isolation() string { return cmp.Or(os.Getenv(IsolationVariable), gvisor.Name) }

// poll is how often the state of another process is looked at.
const poll = 10 * time.Millisecond

// programs are what a server consists of.
var programs = []string{"atoll", "atoll-shim", "atoll-agent", "runsc"}

// Server is one `atoll serve` with a directory of its own.
type Server struct {
	Dir      string // everything of this server; removed by Close
	Data     layout.Data
	Internet *Internet
	URL      string // base URL, without a slash at the end
	Token    string

	owner *os.File // see own
	flags []string
	image layout.Image
	out   *os.File // log of all daemons, one after the other

	mu   sync.Mutex // guards the fields below
	cmd  *exec.Cmd
	dead chan struct{} // closed when cmd was waited for
	ids  map[string]bool
}

// Start starts a server. Flags are added to those that every test needs.
func Start(ctx context.Context, flags ...string) (_ *Server, err error) {
	dir, owner, err := claim(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Data: layout.Data{Dir: filepath.Join(dir, "data")}, owner: owner, flags: flags, ids: map[string]bool{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, s.Log())
			_ = s.Close()
		}
	}()
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return s, s.Serve(ctx)
}

// prepare makes what must be there before the daemon starts.
func (s *Server) prepare() (err error) {
	image := os.Getenv("ATOLL_TEST_IMAGE")
	if image == "" {
		return errors.New("ATOLL_TEST_IMAGE is not set; run this through `make test`")
	}
	s.image = layout.Image{Dir: filepath.Dir(image), Name: strings.TrimSuffix(filepath.Base(image), ".erofs")}
	if err := errors.Join(s.linkPrograms(), s.takeTemplates()); err != nil {
		return err
	}
	if s.out, err = os.Create(filepath.Join(s.Dir, "serve.log")); err != nil {
		return err
	}
	if s.Internet, err = NewInternet(); err != nil {
		return err
	}
	if err := os.WriteFile(s.overrides(), s.Internet.Overrides(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.roots(), s.Internet.Roots(), 0o600)
}

func (s *Server) overrides() string { return filepath.Join(s.Dir, "overrides.json") }
func (s *Server) roots() string     { return filepath.Join(s.Dir, "roots.pem") }
func (s *Server) bin() string       { return filepath.Join(s.Dir, "bin") }

// Program is the path of one of this server's programs.
func (s *Server) Program(name string) string { return filepath.Join(s.bin(), name) }

// linkPrograms gives the server copies of the programs under paths of its
// own, by which its processes are told from those of other servers.
func (s *Server) linkPrograms() error {
	from := os.Getenv("ATOLL_TEST_BIN")
	if from == "" {
		return errors.New("ATOLL_TEST_BIN is not set; run this through `make test`")
	}
	if err := os.Mkdir(s.bin(), 0o755); err != nil {
		return err
	}
	for _, name := range programs {
		if err := linkOrCopy(filepath.Join(from, name), s.Program(name)); err != nil {
			return err
		}
	}
	return nil
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Serve starts the daemon, again after Kill or Terminate, and returns when it
// answers. It listens where it listened before, unless flags say otherwise.
func (s *Server) Serve(ctx context.Context, flags ...string) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	listen := "127.0.0.1:0"
	if s.URL != "" {
		listen = strings.TrimPrefix(s.URL, "http://")
	}
	_ = os.Remove(s.Data.EndpointFile())
	cmd := exec.Command(s.Program("atoll"), append([]string{
		"serve", "--data-dir", s.Data.Dir, "--listen", listen,
		"--image-dir", s.image.Dir, "--image", s.image.Name,
		"--host-overrides", s.overrides(), "--extra-roots", s.roots(),
		"--resolvers", s.Internet.Resolver().String(),
		"--log-level", "debug", "--spares", "0", // what runs is what a test asked for
		"--isolation", Isolation(),
	}, append(slices.Clone(s.flags), flags...)...)...)
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.Env = append(os.Environ(), "HOME="+s.Dir)
	// A signal to the test's terminal is the test's to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	dead := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(dead)
	}()
	s.mu.Lock()
	s.cmd, s.dead = cmd, dead
	s.mu.Unlock()
	return s.awaitAnswer(ctx, dead)
}

func (s *Server) awaitAnswer(ctx context.Context, dead <-chan struct{}) error {
	for {
		if err := s.tryAnswer(ctx); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("wait for the server: %w", err)
		}
		select {
		case <-dead:
			return errors.New("the server ended at its start")
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
}

func (s *Server) tryAnswer(ctx context.Context) error {
	endpoint, err := os.ReadFile(s.Data.EndpointFile())
	if err != nil {
		return err
	}
	token, err := os.ReadFile(s.Data.TokenFile())
	if err != nil {
		return err
	}
	s.URL, s.Token = strings.TrimSpace(string(endpoint)), strings.TrimSpace(string(token))
	_, err = s.List(ctx)
	return err
}

// PID is the daemon's process id.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// Kill ends the daemon as a crash does.
func (s *Server) Kill() error { return s.signal(syscall.SIGKILL) }

// Terminate asks the daemon to stop and waits for it.
func (s *Server) Terminate() error { return s.signal(syscall.SIGTERM) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	cmd, dead := s.cmd, s.dead
	s.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-dead:
		return nil
	case <-time.After(Patience):
		_ = cmd.Process.Kill()
		<-dead
		return fmt.Errorf("the server did not end within %v of %v", Patience, sig)
	}
}

// Close ends the daemon and everything that it started. The server's
// directory with its logs stays if ATOLL_TEST_KEEP is set.
func (s *Server) Close() error {
	err := errors.Join(patiently(s.killAll), s.Terminate(), patiently(s.sweep), s.leaveTemplates())
	if s.Internet != nil {
		s.Internet.Close()
	}
	if s.out != nil {
		_ = s.out.Close()
	}
	if os.Getenv("ATOLL_TEST_KEEP") != "" {
		return errors.Join(err, os.WriteFile(filepath.Join(s.Dir, keepFile), nil, 0o600), s.owner.Close())
	}
	return errors.Join(err, os.RemoveAll(s.Dir), s.owner.Close())
}

// patiently gives one step its time.
func patiently(step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return step(ctx)
}

// killAll asks the daemon, if there is one, to end its sandboxes.
func (s *Server) killAll(ctx context.Context) error {
	s.mu.Lock()
	dead := s.dead
	s.mu.Unlock()
	select {
	case <-dead:
		return nil
	default:
	}
	if dead == nil {
		return nil
	}
	list, err := s.List(ctx)
	for _, sb := range list {
		if sb.Status == api.StatusRunning {
			err = errors.Join(err, patiently(func(ctx context.Context) error { return s.Delete(ctx, sb.ID) }))
		}
	}
	return err
}

// sweep frees what outlived the daemon.
func (s *Server) sweep(ctx context.Context) error {
	log := slog.New(slog.DiscardHandler)
	l := &launch.Launcher{Binaries: launch.Binaries{Shim: s.Program("atoll-shim")}, Data: s.Data, Log: log,
		Drivers: map[string]machine.Driver{
			gvisor.Name: gvisor.New(s.Program("runsc"), log), microvm.Name: microvm.New(microvm.Config{Log: log}),
		}}
	left, err := l.Leftovers(ctx)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	for _, id := range left {
		if sh, aerr := l.Attach(ctx, id); aerr == nil {
			err = errors.Join(err, sh.Stop(ctx, api.StopKilled))
		}
		err = errors.Join(err, l.Cleanup(ctx, id))
	}
	for _, p := range s.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	return err
}

// Log is the last of what the daemons wrote, without the requests that went
// well, of which a test that waits makes many.
func (s *Server) Log() string {
	const most = 100 // lines
	raw, _ := os.ReadFile(filepath.Join(s.Dir, "serve.log"))
	var lines []string
	for line := range strings.Lines(string(raw)) {
		if !strings.Contains(line, "msg=request ") || !strings.Contains(line, " status=200 ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

// Environ is what points the SDKs and the tests in other languages at this
// server.
func (s *Server) Environ() []string {
	return append([]string{
		"DENO_DEPLOY_TOKEN=" + s.Token,
		"DENO_SANDBOX_ENDPOINT=" + s.URL,
		"DENO_DEPLOY_ENDPOINT=" + s.URL,
	}, s.Internet.Environ()...)
}

// Do makes one HTTP request with the server's token and returns status and
// body; in is sent as JSON unless nil.
func (s *Server) Do(ctx context.Context, method, path string, in any) (int, []byte, error) {
	return s.DoAs(ctx, s.Token, method, path, in)
}

// DoAs is Do with another token; an empty one is not sent.
func (s *Server) DoAs(ctx context.Context, token, method, path string, in any) (int, []byte, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, body)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return res.StatusCode, raw, err
}

// List returns the organisation's sandboxes.
func (s *Server) List(ctx context.Context) ([]api.Sandbox, error) {
	status, raw, err := s.Do(ctx, http.MethodGet, "/api/v2/sandboxes", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("list sandboxes: status %d: %s", status, raw)
	}
	var out []api.Sandbox
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, err
}

// Sandbox returns one sandbox of the list.
func (s *Server) Sandbox(ctx context.Context, id string) (api.Sandbox, error) {
	list, err := s.List(ctx)
	for _, sb := range list {
		if sb.ID == id {
			return sb, nil
		}
	}
	return api.Sandbox{}, errors.Join(err, fmt.Errorf("no sandbox %s in the list", id))
}

// Delete kills a sandbox.
func (s *Server) Delete(ctx context.Context, id string) error {
	status, raw, err := s.Do(ctx, http.MethodDelete, "/api/v3/sandbox/"+id, nil)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("kill sandbox: status %d: %s", status, raw)
	}
	return err
}
