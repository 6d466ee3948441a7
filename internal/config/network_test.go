package config

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestCeilings(t *testing.T) {
	cfg, err := Load(Sources{NoFiles: true, Flags: map[string]string{
		"net_ceiling": "*.example.com, [2001:db8::1]:443, default=api.example.com,default=b.example.com, other=10.0.0.0/8",
	}})
	if err != nil {
		t.Fatal(err)
	}
	general, orgs := cfg.Network.Ceilings()
	if diff := cmp.Diff([]string{"*.example.com", "[2001:db8::1]:443"}, general); diff != "" {
		t.Error(diff)
	}
	want := map[string][]string{"default": {"api.example.com", "b.example.com"}, "other": {"10.0.0.0/8"}}
	if diff := cmp.Diff(want, orgs); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"=a.example.com", "default=", "a.example.com=default"} {
		if _, err := Load(Sources{NoFiles: true, Flags: map[string]string{"net_ceiling": bad}}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestProxy(t *testing.T) {
	for _, good := range []string{"", "http://proxy:3128", "https://u:p@proxy.example.com:443/", "socks5://10.0.0.1:1080", "socks5h://[::1]:1080"} {
		cfg := Default()
		cfg.Network.Proxy = Proxy(good)
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"hunter2", "ftp://u:hunter2@h:1", "http://u:hunter2@h", "http://u:hunter2@h:1/path", "http://u:hunter2@h:port", "http://u:hunter2@h:1?q", "socks5://:hunter2@h:1", "socks5://u:hunter2" + strings.Repeat("x", 255) + "@h:1"} {
		cfg := Default()
		cfg.Network.Proxy = Proxy(bad)
		if err := cfg.Validate(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestProxyIsNotShown: not in help, not in errors, not when settings are
// printed.
func TestProxyIsNotShown(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	given := BindFlags(fs)
	if err := fs.Parse([]string{"--net-proxy", "http://user:hunter2@proxy:1"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(Sources{NoFiles: true, Flags: given})
	if err != nil || string(cfg.Network.Proxy) != "http://user:hunter2@proxy:1" {
		t.Fatal(cfg.Network.Proxy, err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("settings", "all", cfg, "proxy", cfg.Network.Proxy)
	for _, shown := range []string{fs.FlagUsages(), log.String(), fmt.Sprintf("%v %+v %#v %s %q %x", cfg, cfg, cfg, cfg.Network.Proxy, cfg.Network.Proxy, cfg.Network.Proxy)} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
}
