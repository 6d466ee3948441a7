package client_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/client/clienttest"
)

// BenchmarkReadTo reads 64 MiB through a file handle. The fake's own encoder
// takes most of the time.
func BenchmarkReadTo(b *testing.B) {
	srv := clienttest.New(b.TempDir())
	defer srv.Close()
	c, err := client.New(client.Options{Endpoint: srv.URL, Token: clienttest.Token})
	if err != nil {
		b.Fatal(err)
	}
	sb, err := c.Sandboxes.Create(b.Context(), client.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer sb.Close()
	if err := sb.FS.WriteFile(b.Context(), "f", make([]byte, 64<<20), nil); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sb.FS.ReadTo(b.Context(), "f", discard{}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkCall measures one small round trip.
func BenchmarkCall(b *testing.B) {
	srv := clienttest.New(b.TempDir())
	defer srv.Close()
	srv.Handle("envGet", func(context.Context, *clienttest.Conn, json.RawMessage) (any, error) { return "v", nil })
	c, _ := client.New(client.Options{Endpoint: srv.URL, Token: clienttest.Token})
	sb, err := c.Sandboxes.Create(b.Context(), client.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer sb.Close()
	for b.Loop() {
		if _, err := sb.Call(b.Context(), "envGet", api.EnvKeyParams{Key: "k"}); err != nil {
			b.Fatal(err)
		}
	}
}
