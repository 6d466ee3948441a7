package deno

import (
	"slices"
	"testing"

	"github.com/atollhq/atoll/api"
)

func TestRunArgs(t *testing.T) {
	for _, tc := range []struct {
		entrypoint string
		watch      *api.Watch
		preload    string
		want       []string
	}{
		{"main.ts", nil, "", []string{"run", "-A", "main.ts", "a", "--b"}},
		{"-x.ts", &api.Watch{}, "", []string{"run", "-A", "./-x.ts", "a", "--b"}},
		{"main.ts", &api.Watch{Enabled: true}, "/p.mjs",
			[]string{"run", "-A", "--watch", "--no-clear-screen", "--preload", "/p.mjs", "main.ts", "a", "--b"}},
		{"main.ts", &api.Watch{Enabled: true, Paths: []string{"x", "a,b"}}, "/p.mjs",
			[]string{"run", "-A", "--watch=x,a,,b", "--no-clear-screen", "--preload", "/p.mjs", "main.ts", "a", "--b"}},
	} {
		p := api.SpawnDenoParams{Entrypoint: &tc.entrypoint, Watch: tc.watch, ScriptArgs: []string{"a", "--b"}}
		if got := runArgs(&p, tc.preload); !slices.Equal(got, tc.want) {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

func TestEvalArgs(t *testing.T) {
	if got, want := evalArgs("-1", "mts", []string{"-x"}), []string{"eval", "--ext=mts", " -1", "-x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
