//go:build e2e

package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	secrets "github.com/atollhq/atoll/internal/gateway/secret"
)

// searchFigure measures how fast text is searched for placeholders on its way
// out, and for values, in all their forms, on its way in.
func searchFigure(_ context.Context, b *bench) error {
	const host = "api.example.com"
	for _, count := range []int{1, 8} {
		specs := map[string]secrets.Spec{}
		for i := range count {
			specs[fmt.Sprintf("KEY%d", i)] = secrets.Spec{Hosts: []string{host}, Value: fmt.Sprintf("sk-%02d-a-value-of-the-usual-length-01234", i)}
		}
		set, err := secrets.New(specs)
		if err != nil {
			return err
		}
		r, err := http.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			return err
		}
		x, err := set.Begin(secrets.Dest{Name: host, Port: 443, Verified: true}, r)
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("search of text, %d secrets", count),
			"placeholders "+searched(x.TextToServer())+", values "+searched(x.FromServer(true)), "", "")
	}
	return nil
}

// searched is how fast text in which nothing is found passes.
func searched(with secrets.Rewriter) string {
	text := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog, and says: \"0123456789\".\n", 1000))
	var out []byte
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			out, _ = with.Rewrite(out[:0], text, true)
		}
	})
	return rate(len(text)*r.N, r.T)
}
