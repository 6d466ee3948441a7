package sandbox

import (
	"testing"

	"github.com/atollhq/atoll/internal/store"
)

// BenchmarkEnter is what a running sandbox costs each message more.
func BenchmarkEnter(b *testing.B) {
	x := newBox(NewManager(Options{Starts: 1}), store.Sandbox{ID: NewID("ord")}, nil, PowerRunning)
	defer x.die()
	c, err := x.connect()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_ = c.Enter(b.Context())
		c.Leave()
	}
}
