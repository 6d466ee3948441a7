//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

// policyFigure measures what a decision costs under the longest list: one that
// the last entry allows, and one that no entry does.
func policyFigure(_ context.Context, b *bench) error {
	var entries []string
	for i := range policy.MaxEntries / 2 {
		entries = append(entries, fmt.Sprintf("host%d.example.com:443", i), fmt.Sprintf("*.zone%d.example.com", i))
	}
	list, err := policy.ParseList(entries)
	if err != nil {
		return err
	}
	p := policy.Policy{Allow: list}
	allowed := policy.Query{Proto: policy.TCP, Name: fmt.Sprintf("a.b.zone%d.example.com", policy.MaxEntries/2-1), Port: 443}
	refused := policy.Query{Proto: policy.TCP, Name: "a.b.example.com", Port: 443}
	if !p.Decide(allowed).Allow || p.Decide(refused).Allow {
		return errors.New("the list decides otherwise than it should")
	}
	b.add(fmt.Sprintf("decision, list of %d entries", len(entries)),
		fmt.Sprintf("allowed %s, refused %s", decision(p, allowed), decision(p, refused)), "", "")
	return nil
}

func decision(p policy.Policy, q policy.Query) time.Duration {
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			p.Decide(q)
		}
	})
	return time.Duration(r.NsPerOp())
}
