package fs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
)

// Register adds the file API to reg. The agent keeps the service for its whole
// life; tests close it.
func Register(reg *rpc.Registry, cfg Config) *Service {
	s := New(cfg)
	s.registerPaths(reg)
	s.registerContent(reg)
	s.registerHandles(reg)
	s.registerWalks(reg)
	return s
}

// remote turns an error into the one that the client sees.
func remote(err error) error {
	if err == nil {
		return nil
	}
	op := ""
	if e, ok := errors.AsType[*opError](err); ok {
		op = e.op
	}
	return rpc.FromOS(op, err)
}

// call registers a method that needs nothing but its parameters.
func call[P, R any](reg *rpc.Registry, name string, fn func(context.Context, P) (R, error)) {
	rpc.Register(reg, name, func(ctx context.Context, _ *rpc.Conn, p P) (R, error) {
		r, err := fn(ctx, p)
		return r, remote(err)
	})
}

// act registers a method without a result.
func act[P any](reg *rpc.Registry, name string, fn func(context.Context, P) error) {
	call(reg, name, func(ctx context.Context, p P) (rpc.Null, error) { return rpc.Null{}, fn(ctx, p) })
}

func (s *Service) registerPaths(reg *rpc.Registry) {
	call(reg, "stat", s.stat)
	call(reg, "lstat", s.lstat)
	act(reg, "chmod", s.chmod)
	act(reg, "chown", s.chown)
	act(reg, "utime", s.utime)
	act(reg, "truncate", s.truncate)
	act(reg, "mkdir", s.mkdir)
	act(reg, "remove", s.remove)
	act(reg, "rename", s.rename)
	act(reg, "link", s.link)
	act(reg, "symlink", s.symlink)
	act(reg, "copyFile", s.copyFile)
	call(reg, "readLink", s.readLink)
	call(reg, "realPath", s.realPath)
	call(reg, "makeTempDir", s.makeTempDir)
	call(reg, "makeTempFile", s.makeTempFile)
	rpc.Register(reg, "readDir", func(ctx context.Context, c *rpc.Conn, p api.PathParams) ([]api.DirEntry, error) {
		list, err := s.readDir(ctx, p.Path, maxMessage(c)-answerOverhead)
		return list, remote(err)
	})
	call(reg, "umask", func(_ context.Context, p api.UmaskParams) (uint32, error) { return s.setUmask(p) })
}

// maxMessage is how many bytes one message to this client may have.
func maxMessage(c *rpc.Conn) int64 { return int64(c.MaxMessage()) }

func (s *Service) registerContent(reg *rpc.Registry) {
	rpc.Register(reg, "readFile", func(ctx context.Context, c *rpc.Conn, p api.ReadFileParams) (api.Bytes, error) {
		ctx, done := c.Abortable(ctx, p.AbortID)
		defer done()
		data, err := s.readFile(ctx, p.Path, maxRaw(maxMessage(c)))
		return data, remote(err)
	})
	rpc.Register(reg, "readTextFile", func(ctx context.Context, c *rpc.Conn, p api.ReadFileParams) (string, error) {
		ctx, done := c.Abortable(ctx, p.AbortID)
		defer done()
		text, err := s.readTextFile(ctx, p.Path, maxMessage(c)-answerOverhead)
		return text, remote(err)
	})
	rpc.Register(reg, "writeFile", func(ctx context.Context, c *rpc.Conn, p api.WriteFileParams) (rpc.Null, error) {
		return s.handleWrite(ctx, c, p)
	})
	rpc.Register(reg, "writeTextFile", func(ctx context.Context, c *rpc.Conn, p api.WriteTextFileParams) (rpc.Null, error) {
		w := api.WriteFileParams{Path: p.Path, AbortID: p.AbortID, Options: p.Options, ContentStreamID: p.ContentStreamID}
		if p.Content != nil {
			data := api.Bytes(*p.Content)
			w.Content = &data
		}
		return s.handleWrite(ctx, c, w)
	})
}

// handleWrite writes from memory or from a stream; a call without content
// writes nothing into the file.
func (s *Service) handleWrite(ctx context.Context, c *rpc.Conn, p api.WriteFileParams) (rpc.Null, error) {
	ctx, done := c.Abortable(ctx, p.AbortID)
	defer done()
	if p.ContentStreamID == nil {
		var data []byte
		if p.Content != nil {
			data = *p.Content
		}
		return rpc.Null{}, remote(s.writeFile(ctx, p.Path, p.Options, data))
	}
	in := c.InStream(*p.ContentStreamID)
	defer in.Close()
	return rpc.Null{}, remote(s.writeStream(ctx, p.Path, p.Options, in))
}

// handlesKey finds a connection's handles.
type handlesKey struct{}

// handles returns the connection's open files, which are closed with it.
func (s *Service) handles(c *rpc.Conn) *handles {
	h := c.Value(handlesKey{}, func() any { return newHandles(s.cfg.MaxHandles) }).(*handles)
	h.owned.Do(func() { c.OnClose(h.closeAll) })
	return h
}

// onHandle registers a method that works on the connection's handles.
func onHandle[P, R any](s *Service, reg *rpc.Registry, name string, fn func(context.Context, *handles, P) (R, error)) {
	rpc.Register(reg, name, func(ctx context.Context, c *rpc.Conn, p P) (R, error) {
		r, err := fn(ctx, s.handles(c), p)
		return r, remote(err)
	})
}

// actOnHandle is onHandle for methods without a result.
func actOnHandle[P any](s *Service, reg *rpc.Registry, name string, fn func(*handles, context.Context, P) error) {
	onHandle(s, reg, name, func(ctx context.Context, h *handles, p P) (rpc.Null, error) {
		return rpc.Null{}, fn(h, ctx, p)
	})
}

func (s *Service) registerHandles(reg *rpc.Registry) {
	onHandle(s, reg, "open", s.openHandle)
	onHandle(s, reg, "create", s.createHandle)
	rpc.Register(reg, "fileRead", func(ctx context.Context, c *rpc.Conn, p api.FileReadParams) (api.FileReadResult, error) {
		r, err := s.handles(c).read(ctx, p, maxRaw(maxMessage(c)))
		return r, remote(err)
	})
	onHandle(s, reg, "fileWrite", func(ctx context.Context, h *handles, p api.FileWriteParams) (api.FileWriteResult, error) {
		return h.write(ctx, p)
	})
	onHandle(s, reg, "fileSeek", func(ctx context.Context, h *handles, p api.FileSeekParams) (api.FileSeekResult, error) {
		return h.seek(ctx, p)
	})
	onHandle(s, reg, "fileStat", func(ctx context.Context, h *handles, p api.FileHandle) (api.FileInfo, error) {
		return h.stat(ctx, p)
	})
	actOnHandle(s, reg, "fileClose", (*handles).closeHandle)
	actOnHandle(s, reg, "fileLock", (*handles).lock)
	actOnHandle(s, reg, "fileUnlock", (*handles).unlock)
	actOnHandle(s, reg, "fileSync", (*handles).sync)
	actOnHandle(s, reg, "fileSyncData", (*handles).syncData)
	actOnHandle(s, reg, "fileTruncate", (*handles).truncate)
	actOnHandle(s, reg, "fileUtime", (*handles).utime)
}

func (s *Service) registerWalks(reg *rpc.Registry) {
	rpc.Register(reg, "walk", func(ctx context.Context, c *rpc.Conn, p api.WalkParams) (api.StreamResult, error) {
		opts, err := newWalkOptions(p)
		if err != nil {
			return api.StreamResult{}, remote(err)
		}
		w, err := s.newWalker(ctx, p.Path, opts)
		if err != nil {
			return api.StreamResult{}, remote(err)
		}
		return stream(c, w), nil
	})
	rpc.Register(reg, "expandGlob", func(ctx context.Context, c *rpc.Conn, p api.ExpandGlobParams) (api.StreamResult, error) {
		plan, err := s.newGlobPlan(p)
		if err != nil {
			return api.StreamResult{}, remote(err)
		}
		e, err := s.newExpansion(ctx, plan)
		if err != nil {
			return api.StreamResult{}, remote(err)
		}
		return stream(c, e), nil
	})
}

// stream sends entries in a goroutine of its own, which ends with them, with
// the client's interest or with the connection.
func stream(c *rpc.Conn, e entries) api.StreamResult {
	out := c.OpenStream()
	ctx, cancel := context.WithCancel(c.Context())
	go func() {
		select {
		case <-out.Cancelled():
		case <-ctx.Done():
		}
		cancel()
	}()
	go func() {
		defer cancel()
		defer e.close()
		if err := send(ctx, out, e); err != nil {
			out.Fail(remote(err))
			return
		}
		_ = out.Close()
	}()
	return api.StreamResult{StreamID: out.ID()}
}

// send writes each entry as one message: the JavaScript SDK parses each by
// itself.
func send(ctx context.Context, out *rpc.OutStream, e entries) error {
	for {
		entry, err := e.next(ctx)
		if entry == nil || err != nil {
			return err
		}
		line, err := json.Marshal(entry)
		if err != nil {
			return fmt.Errorf("encode walk entry: %w", err)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}
