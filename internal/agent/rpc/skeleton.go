package rpc

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/atollhq/atoll/internal/link"
)

type Registry struct{}

func NewRegistry() *Registry { return &Registry{} }

func Register[P, R any](r *Registry, name string, fn func(ctx context.Context, c *Conn, p P) (R, error)) {
}

type Null struct{}

type Conn struct{}

func Serve(ctx context.Context, stream net.Conn, header link.RPCHeader, reg *Registry, log *slog.Logger, limits Limits) error {
	return nil
}
func (c *Conn) Notify(method string, params any) error { return nil }
func (c *Conn) OpenStream() *OutStream                 { return nil }
func (c *Conn) InStream(id int64) *InStream            { return nil }
func (c *Conn) OnClose(fn func())                      {}
func (c *Conn) Done() <-chan struct{}                  { return nil } // closed when the connection has ended
func (c *Conn) Context() context.Context               { return nil } // cancelled when the connection has ended
func (c *Conn) Value(key any, make func() any) any     { return nil }
func (c *Conn) Abortable(ctx context.Context, abortID *int64) (context.Context, func()) {
	return nil, nil
}

type OutStream struct{}

func (s *OutStream) ID() int64                   { return 0 }
func (s *OutStream) Write(p []byte) (int, error) { return 0, nil }
func (s *OutStream) Close() error                { return nil }
func (s *OutStream) Fail(err error)              {}
func (s *OutStream) Gate(open <-chan struct{})   {} // nothing is sent before open is closed; call before the first Write
func (s *OutStream) Cancelled() <-chan struct{}  { return nil }

type InStream struct{}

func (s *InStream) ID() int64                  { return 0 }
func (s *InStream) Read(p []byte) (int, error) { return 0, nil }
func (s *InStream) Close() error               { return nil }
func (s *InStream) Cancel(reason error)        {}
func (s *InStream) LastActivity() time.Time    { return time.Time{} }
