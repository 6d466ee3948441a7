package client

import (
	"context"

	"github.com/atollhq/atoll/api"
)

// Env reads and changes the environment that new processes get.
type Env struct{ conn *conn }

// Get returns a variable and whether it is set.
func (e *Env) Get(ctx context.Context, key string) (value string, set bool, err error) {
	got, err := call[*string](ctx, e.conn, "envGet", api.EnvKeyParams{Key: key})
	if err != nil || got == nil {
		return "", false, err
	}
	return *got, true, nil
}

// Set sets a variable.
func (e *Env) Set(ctx context.Context, key, value string) error {
	return e.conn.run(ctx, "envSet", api.EnvSetParams{Key: key, Value: value})
}

// All returns all variables.
func (e *Env) All(ctx context.Context) (map[string]string, error) {
	return call[map[string]string](ctx, e.conn, "envToObject", struct{}{})
}

// Delete unsets a variable.
func (e *Env) Delete(ctx context.Context, key string) error {
	return e.conn.run(ctx, "envDelete", api.EnvKeyParams{Key: key})
}
