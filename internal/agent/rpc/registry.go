package rpc

import (
	"context"
	"reflect"

	"github.com/atollhq/atoll/api"
)

// Registry maps method names to functions. It is filled before the first
// Serve and only read from then on.
type Registry struct {
	methods map[string]method
}

// method decodes its parameters and runs. An *api.RPCError means that it
// didn't run.
type method func(ctx context.Context, c *Conn, p params) (any, error)

// NewRegistry returns a registry without methods.
func NewRegistry() *Registry { return &Registry{methods: map[string]method{}} }

// Null is the result of a method that answers {"ok": null}.
type Null struct{}

// MarshalJSON writes null.
func (Null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// Register adds a method. Its parameters are decoded into P, a struct: a
// field is required unless its tag has omitempty or its type is a pointer,
// map or slice (other than api.Bytes). Missing and ill-typed parameters, and
// what P's Validate method finds, are answered as invalid parameters.
//
// An error that is an *api.RPCError is answered at the level of JSON-RPC, any
// other as the call's result, through FromOS. Binary parameters share memory
// with the message and are the function's to keep or change.
func Register[P, R any](r *Registry, name string, fn func(ctx context.Context, c *Conn, p P) (R, error)) {
	if _, twice := r.methods[name]; twice {
		panic("rpc: method " + name + " registered twice")
	}
	fields := fieldsOf(reflect.TypeFor[P]())
	r.methods[name] = func(ctx context.Context, c *Conn, raw params) (any, error) {
		p := new(P)
		issues := decodeParams(fields, raw, reflect.ValueOf(p).Elem())
		if v, ok := any(p).(validator); ok && len(issues) == 0 {
			issues = v.Validate()
		}
		if len(issues) > 0 {
			return nil, invalidParams(issues)
		}
		return fn(ctx, c, *p)
	}
}

// lookup returns a method, or nil.
func (r *Registry) lookup(name string) method { return r.methods[name] }

var methodNotFound = &api.RPCError{Code: api.RPCMethodNotFound, Message: "Method not found"}
