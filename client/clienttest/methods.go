package clienttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"syscall"

	"github.com/atollhq/atoll/api"
)

// builtin are the methods that the fake answers itself.
var builtin = map[string]Method{}

// on registers a method with typed parameters.
func on[P any](name string, f func(ctx context.Context, c *Conn, p P) (any, error)) {
	builtin[name] = func(ctx context.Context, c *Conn, raw json.RawMessage) (any, error) {
		var p P
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, fmt.Errorf("Invalid params: %w", err)
		}
		value, err := f(ctx, c, p)
		return value, remote(err)
	}
}

// remote turns a system error into its wire form.
func remote(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*api.RemoteError](err); ok {
		return err
	}
	class, code := "Error", "EIO"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		class, code = "NotFound", "ENOENT"
	case errors.Is(err, fs.ErrExist):
		class, code = "AlreadyExists", "EEXIST"
	case errors.Is(err, fs.ErrPermission):
		class, code = "PermissionDenied", "EACCES"
	case errors.Is(err, syscall.EISDIR):
		class, code = "IsADirectory", "EISDIR"
	case errors.Is(err, context.Canceled):
		class, code = "DOMException", "ABORT_ERR"
	}
	name := class
	if code == "ABORT_ERR" {
		name = "AbortError"
	}
	return &api.RemoteError{ConstructorName: class, Name: &name, Message: err.Error(), Code: &code}
}

// path maps a path of the sandbox to the host. The fake trusts its tests.
func (c *Conn) path(p string) string {
	if !filepath.IsAbs(p) {
		p = filepath.Join(home, p)
	}
	return filepath.Join(c.sandbox.root, p)
}

func init() {
	on("abort", func(_ context.Context, c *Conn, p api.AbortParams) (any, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if cancel := c.aborts[p.AbortID]; cancel != nil {
			cancel()
		}
		return nil, nil
	})
	on("readFile", func(_ context.Context, c *Conn, p api.ReadFileParams) (any, error) {
		data, err := os.ReadFile(c.path(p.Path))
		return api.Bytes(data), err
	})
	on("writeFile", writeFile)
	on("readDir", readDir)
	on("stat", func(_ context.Context, c *Conn, p api.PathParams) (any, error) { return info(os.Stat(c.path(p.Path))) })
	on("lstat", func(_ context.Context, c *Conn, p api.PathParams) (any, error) { return info(os.Lstat(c.path(p.Path))) })
	on("mkdir", mkdir)
	on("remove", func(_ context.Context, c *Conn, p api.RemoveParams) (any, error) {
		if p.Options != nil && p.Options.Recursive != nil && *p.Options.Recursive {
			return nil, os.RemoveAll(c.path(p.Path))
		}
		return nil, os.Remove(c.path(p.Path))
	})
	on("rename", func(_ context.Context, c *Conn, p api.RenameParams) (any, error) {
		return nil, os.Rename(c.path(p.OldPath), c.path(p.NewPath))
	})
	on("chmod", func(_ context.Context, c *Conn, p api.ChmodParams) (any, error) {
		return nil, os.Chmod(c.path(p.Path), os.FileMode(p.Mode&0o777))
	})
	on("utime", func(_ context.Context, c *Conn, p api.UtimeParams) (any, error) {
		return nil, os.Chtimes(c.path(p.Path), p.Atime.Time, p.Mtime.Time)
	})
	on("symlink", func(_ context.Context, c *Conn, p api.LinkParams) (any, error) {
		return nil, os.Symlink(p.Target, c.path(p.Path))
	})
	on("readLink", func(_ context.Context, c *Conn, p api.PathParams) (any, error) { return os.Readlink(c.path(p.Path)) })
	on("makeTempDir", func(_ context.Context, c *Conn, _ api.MakeTempParams) (any, error) {
		dir, err := os.MkdirTemp(c.sandbox.root, "tmp")
		return "/" + filepath.Base(dir), err
	})
	on("open", openFile)
	on("fileRead", fileRead)
	on("fileWrite", func(_ context.Context, c *Conn, p api.FileWriteParams) (any, error) {
		n, err := c.file(p.FileHandleID).Write(p.Data)
		return api.FileWriteResult{BytesWritten: n}, err
	})
	on("fileSeek", func(_ context.Context, c *Conn, p api.FileSeekParams) (any, error) {
		at, err := c.file(p.FileHandleID).Seek(int64(p.Offset), p.Whence)
		return api.FileSeekResult{Position: at}, err
	})
	on("fileStat", func(_ context.Context, c *Conn, p api.FileHandle) (any, error) {
		return info(c.file(p.FileHandleID).Stat())
	})
	on("fileClose", func(_ context.Context, c *Conn, p api.FileHandle) (any, error) {
		err := c.file(p.FileHandleID).Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.files, p.FileHandleID)
		return nil, err
	})
	on("walk", walk)
	on("envGet", func(_ context.Context, c *Conn, p api.EnvKeyParams) (any, error) {
		if v, ok := c.environ()[p.Key]; ok {
			return v, nil
		}
		return nil, nil
	})
	on("envSet", func(_ context.Context, c *Conn, p api.EnvSetParams) (any, error) {
		c.server.mu.Lock()
		defer c.server.mu.Unlock()
		c.sandbox.env[p.Key] = p.Value
		return nil, nil
	})
	on("envDelete", func(_ context.Context, c *Conn, p api.EnvKeyParams) (any, error) {
		c.server.mu.Lock()
		defer c.server.mu.Unlock()
		delete(c.sandbox.env, p.Key)
		return nil, nil
	})
	on("envToObject", func(_ context.Context, c *Conn, _ struct{}) (any, error) { return c.environ(), nil })
	on("spawn", spawn)
	on("processWait", processWait)
	on("processKill", processKill)
}

func (c *Conn) environ() map[string]string {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return maps.Clone(c.sandbox.env)
}

func writeFile(ctx context.Context, c *Conn, p api.WriteFileParams) (any, error) {
	flags, mode := os.O_WRONLY|os.O_CREATE|os.O_TRUNC, os.FileMode(0o644)
	if p.Options != nil && p.Options.Mode != nil {
		mode = os.FileMode(*p.Options.Mode)
	}
	f, err := os.OpenFile(c.path(p.Path), flags, mode)
	if err != nil {
		if p.ContentStreamID != nil {
			c.Notify(api.NotifyStreamCancel, api.StreamParams{StreamID: *p.ContentStreamID})
		}
		return nil, err
	}
	defer f.Close()
	if p.Content != nil {
		_, err = f.Write(*p.Content)
		return nil, err
	}
	stream := c.Inbound(*p.ContentStreamID)
	stop := context.AfterFunc(ctx, func() { stream.r.CloseWithError(context.Canceled) })
	defer stop()
	_, err = io.Copy(f, stream)
	return nil, err
}

func readDir(_ context.Context, c *Conn, p api.PathParams) (any, error) {
	entries, err := os.ReadDir(c.path(p.Path))
	out := []api.DirEntry{}
	for _, e := range entries {
		t := e.Type()
		out = append(out, api.DirEntry{
			Name: e.Name(), IsFile: t.IsRegular(), IsDirectory: t.IsDir(), IsSymlink: t&fs.ModeSymlink != 0,
		})
	}
	return out, err
}

func info(fi fs.FileInfo, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	m := fi.Mode()
	return api.FileInfo{
		IsFile: m.IsRegular(), IsDirectory: m.IsDir(), IsSymlink: m&fs.ModeSymlink != 0,
		Size: fi.Size(), Mode: uint32(m.Perm()), Mtime: api.Date{Time: fi.ModTime()},
	}, nil
}

func mkdir(_ context.Context, c *Conn, p api.MkdirParams) (any, error) {
	mode := os.FileMode(0o777)
	if p.Options != nil && p.Options.Mode != nil {
		mode = os.FileMode(*p.Options.Mode)
	}
	if p.Options != nil && p.Options.Recursive != nil && *p.Options.Recursive {
		return nil, os.MkdirAll(c.path(p.Path), mode)
	}
	return nil, os.Mkdir(c.path(p.Path), mode)
}

func openFile(_ context.Context, c *Conn, p api.OpenParams) (any, error) {
	flags, mode := os.O_RDONLY, os.FileMode(0o644)
	set := func(b *bool) bool { return b != nil && *b }
	if o := p.Options; o != nil {
		if !set(o.Read) && !set(o.Write) && !set(o.Append) {
			return nil, &api.RemoteError{ConstructorName: "Error", Message: "OpenOptions requires at least one option to be true"}
		}
		if set(o.Write) {
			flags = os.O_RDWR
		}
		if set(o.Create) {
			flags |= os.O_CREATE
		}
		if set(o.Truncate) {
			flags |= os.O_TRUNC
		}
		if o.Mode != nil {
			mode = os.FileMode(*o.Mode)
		}
	}
	f, err := os.OpenFile(c.path(p.Path), flags, mode)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	c.files[id] = f
	return api.FileHandle{FileHandleID: id}, nil
}

// file returns an open file; an unknown handle gives a closed one.
func (c *Conn) file(id int64) *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, _ := c.files[id].(*os.File)
	return f
}

func fileRead(_ context.Context, c *Conn, p api.FileReadParams) (any, error) {
	buf := make([]byte, p.Length)
	n, err := c.file(p.FileHandleID).Read(buf)
	if err == io.EOF {
		return api.FileReadResult{}, nil
	}
	data := api.Bytes(buf[:n])
	return api.FileReadResult{Data: &data}, err
}

func walk(_ context.Context, c *Conn, p api.WalkParams) (any, error) {
	root := c.path(p.Path)
	if _, err := os.Stat(root); err != nil {
		return nil, err
	}
	var entries []api.WalkEntry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(c.sandbox.root, path)
		entries = append(entries, api.WalkEntry{
			Path: "/" + rel, Name: d.Name(), IsFile: d.Type().IsRegular(), IsDirectory: d.IsDir(),
			IsSymlink: d.Type()&fs.ModeSymlink != 0,
		})
		return nil
	})
	id := c.Outbound(func(emit func([]byte) bool) {
		for _, e := range entries {
			text, _ := json.Marshal(e)
			if !emit(text) {
				return
			}
		}
	})
	return api.StreamResult{StreamID: id}, err
}

// proc is a process of the host. Its output is held back until processWait.
type proc struct {
	cmd     *exec.Cmd
	release chan struct{}
	waited  bool
	done    chan struct{}
	status  api.ProcessStatus
}

func spawn(_ context.Context, c *Conn, p api.SpawnParams) (any, error) {
	cmd := exec.CommandContext(c.ctx, p.Command, p.Args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Dir = c.path(".")
	if p.Cwd != nil {
		cmd.Dir = c.path(*p.Cwd)
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+c.path("."))
	for _, env := range []map[string]string{c.environ(), p.Env} {
		keys := make([]string, 0, len(env))
		for k := range env {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			cmd.Env = append(cmd.Env, k+"="+env[k])
		}
	}
	pr := &proc{cmd: cmd, release: make(chan struct{}), done: make(chan struct{})}
	return c.startProc(pr, p)
}

func (c *Conn) startProc(pr *proc, p api.SpawnParams) (any, error) {
	var ends []*os.File
	var res api.SpawnResult
	pipeOut := func(kind string, to *io.Writer) (*int64, error) {
		if kind != api.StdioPiped {
			return nil, nil
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*to = w
		ends = append(ends, w)
		id := c.Outbound(func(emit func([]byte) bool) { pr.pump(c.ctx, r, emit) })
		return &id, nil
	}
	defer func() {
		for _, w := range ends {
			w.Close()
		}
	}()
	var stdin io.WriteCloser
	if p.StdinStreamID != nil {
		var err error
		if stdin, err = pr.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	var err error
	if res.StdoutStreamID, err = pipeOut(p.Stdout, &pr.cmd.Stdout); err != nil {
		return nil, err
	}
	if res.StderrStreamID, err = pipeOut(p.Stderr, &pr.cmd.Stderr); err != nil {
		return nil, err
	}
	if err := pr.cmd.Start(); err != nil {
		close(pr.release)
		return nil, err
	}
	if stdin != nil {
		c.work.Go(func() { c.feedStdin(*p.StdinStreamID, stdin) })
	}
	res.PID = pr.cmd.Process.Pid
	c.mu.Lock()
	c.procs[res.PID] = pr
	c.mu.Unlock()
	c.work.Go(func() { pr.reap() })
	return res, nil
}

func (c *Conn) feedStdin(id int64, stdin io.WriteCloser) {
	stream := c.Inbound(id)
	_, err := io.Copy(stdin, stream)
	stdin.Close()
	if err != nil {
		stream.r.CloseWithError(err)
		c.Notify(api.NotifyStreamCancel, api.StreamParams{StreamID: id})
	}
}

// pump sends a pipe's data to the client after the release.
func (pr *proc) pump(ctx context.Context, r *os.File, emit func([]byte) bool) {
	defer r.Close()
	select {
	case <-pr.release:
	case <-ctx.Done():
		return
	}
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && !emit(buf[:n]) {
			return
		}
		if err != nil {
			return
		}
	}
}

func (pr *proc) reap() {
	_ = pr.cmd.Wait()
	ws := pr.cmd.ProcessState.Sys().(syscall.WaitStatus)
	pr.status = api.ProcessStatus{Success: ws.ExitStatus() == 0, Code: ws.ExitStatus()}
	if ws.Signaled() {
		name := signalNames[ws.Signal()]
		pr.status.Signal, pr.status.Code = &name, 128+int(ws.Signal())
	}
	close(pr.done)
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGKILL: "SIGKILL", syscall.SIGHUP: "SIGHUP",
}

var errNoProcess = &api.RemoteError{ConstructorName: "NotFound", Message: "no such process", Code: new("ENOENT")}

func (c *Conn) proc(pid int) *proc {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.procs[pid]
}

func processWait(ctx context.Context, c *Conn, p api.PIDParams) (any, error) {
	pr := c.proc(p.PID)
	if pr == nil {
		return nil, errNoProcess
	}
	c.mu.Lock()
	if !pr.waited {
		pr.waited = true
		close(pr.release)
	}
	c.mu.Unlock()
	select {
	case <-pr.done:
		return pr.status, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func processKill(_ context.Context, c *Conn, p api.ProcessKillParams) (any, error) {
	pr := c.proc(p.PID)
	if pr == nil {
		return nil, errNoProcess
	}
	select {
	case <-pr.done:
		return nil, errNoProcess
	default:
	}
	want := "SIGTERM"
	if p.Signal != nil {
		want = *p.Signal
	}
	for sig, name := range signalNames {
		if name == want {
			if err := syscall.Kill(-p.PID, sig); !errors.Is(err, syscall.ESRCH) {
				return nil, err
			}
			return nil, errNoProcess
		}
	}
	return nil, fmt.Errorf("unknown signal %s", want)
}
