package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "atoll.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestEverySettingHasTextFormOfItsDefault(t *testing.T) {
	for _, s := range Settings() {
		cfg := Default()
		if err := s.bind(&cfg).Set(s.Default()); err != nil {
			t.Errorf("%s: default %q is refused: %v", s.Key, s.Default(), err)
		}
		if s.Doc == "" {
			t.Errorf("%s: no documentation", s.Key)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, `
listen = "127.0.0.1:1"
max_sandboxes = 7
max_starts = 3
region = ["ord", "ams"]
stop_sandboxes = true
`)
	env := map[string]string{"ATOLL_LISTEN": "127.0.0.1:2", "ATOLL_MAX_SANDBOXES": "8"}
	cfg, err := Load(Sources{
		File:  file,
		Env:   func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Flags: map[string]string{"listen": "127.0.0.1:3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Listen, want.Limits.Sandboxes, want.Limits.Starts = "127.0.0.1:3", 8, 3
	want.Regions = []string{"ord", "ams"}
	want.StopSandboxes = true
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	file := writeFile(t, "colour = \"red\"\nmemory_max = 1\nmax_extend = \"soon\"\n")
	_, err := Load(Sources{File: file, Flags: map[string]string{"region": "Chicago"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"colour: there is no such setting", "memory_max:", "max_extend:", "region:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not reported in:\n%v", want, err)
		}
	}
}

// TestDataDirectory: the longest that is accepted must have room for sockets.
func TestDataDirectory(t *testing.T) {
	for dir, ok := range map[string]bool{
		"/" + strings.Repeat("d", maxDataDir-1): true,
		"/" + strings.Repeat("d", maxDataDir):   false,
		"/srv/a,b":                              false,
		"srv":                                   false,
	} {
		cfg := Default()
		cfg.DataDir = dir
		if err := cfg.Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", dir, err)
		}
		socket := cfg.Data().Sandbox("sbx_ord_" + strings.Repeat("0", 20)).Socket()
		if ok && len(socket) > 107 {
			t.Errorf("%s: its sockets have %d bytes", dir, len(socket))
		}
	}
}

func TestBadFiles(t *testing.T) {
	for name, text := range map[string]string{
		"syntax":       "listen = ",
		"float":        "max_starts = 1.5",
		"list of ints": "region = [1]",
		"nested":       "[listen]\na = 1",
	} {
		if _, err := Load(Sources{File: writeFile(t, text)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Load(Sources{File: "/does/not/exist.toml"}); err == nil {
		t.Error("a named file that is missing is no error")
	}
}

func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	given := BindFlags(fs)
	err := fs.Parse([]string{"--region", "ord", "--region=ams", "--session-grace", "5s", "--net-exceptions", "10.1.2.3,192.168.0.0/16", "--resolvers=127.0.0.1:5353", "--stop-sandboxes"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(Sources{Flags: given, NoFiles: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ord", "ams"}, cfg.Regions); diff != "" {
		t.Error(diff)
	}
	if cfg.SessionGrace != 5*time.Second {
		t.Errorf("session grace = %v", cfg.SessionGrace)
	}
	if !cfg.StopSandboxes {
		t.Error("the bare flag does not say yes")
	}
	if got := join(cfg.Network.Exceptions); got != "10.1.2.3/32,192.168.0.0/16" {
		t.Errorf("exceptions = %s", got)
	}
	if got := join(cfg.Network.Resolvers); got != "127.0.0.1:5353" {
		t.Errorf("resolvers = %s", got)
	}
	if fs.Parse([]string{"--max-sandboxes=many"}) == nil {
		t.Error("a number that is none is accepted")
	}
}

func TestImageFiles(t *testing.T) {
	cfg := Default()
	if got, want := cfg.ImageFiles().File(), "/var/lib/atoll/images/debian-13.erofs"; got != want {
		t.Errorf("image = %s, want %s", got, want)
	}
}
