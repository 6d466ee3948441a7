package sandbox_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/sandbox"
)

var limits = sandbox.Limits{MemoryMinMiB: 768, MemoryMaxMiB: 4096, MemoryDefaultMiB: 1280, Labels: 5, Regions: []string{"ord"}}

// read is what the API does with a configuration header.
func read(text string) (sandbox.Spec, error) {
	cfg, err := sandbox.DecodeConfig(base64.StdEncoding.EncodeToString([]byte(text)))
	if err != nil {
		return sandbox.Spec{}, err
	}
	return sandbox.NewSpec(cfg, limits, time.Now())
}

// TestRefusedNetworks: the code is stable, the field is named, the value of a
// secret is nowhere.
func TestRefusedNetworks(t *testing.T) {
	for text, want := range map[string]struct{ code, names string }{
		`{"allow_net":"example.com"}`:                                          {sandbox.CodeInvalidAllowNet, `"allow_net"`},
		`{"allow_net":[7]}`:                                                    {sandbox.CodeInvalidAllowNet, `"allow_net"`},
		`{"allow_net":[""]}`:                                                   {sandbox.CodeInvalidAllowNet, "allow_net[0]"},
		`{"allow_net":["example.com","a b"]}`:                                  {sandbox.CodeInvalidAllowNet, "allow_net[1]"},
		`{"allow_net":["example.com:99999"]}`:                                  {sandbox.CodeInvalidAllowNet, "allow_net[0]"},
		`{"secrets":["hunter2"]}`:                                              {sandbox.CodeInvalidSecrets, `"secrets"`},
		`{"secrets":{"K":"hunter2"}}`:                                          {sandbox.CodeInvalidSecrets, `"secrets"`},
		`{"secrets":{"K":{"hosts":["h.example"],"value":4711}}}`:               {sandbox.CodeInvalidSecrets, "value"},
		`{"secrets":{"K":null}}`:                                               {sandbox.CodeInvalidSecrets, "secrets.K"},
		`{"secrets":{"K":{"value":"hunter2"}}}`:                                {sandbox.CodeInvalidSecrets, "secrets.K.hosts"},
		`{"secrets":{"K":{"hosts":[],"value":"hunter2"}}}`:                     {sandbox.CodeInvalidSecrets, "secrets.K.hosts"},
		`{"secrets":{"K":{"hosts":[""],"value":"hunter2"}}}`:                   {sandbox.CodeInvalidSecrets, "secrets.K.hosts"},
		`{"secrets":{"K":{"hosts":["h.example"]}}}`:                            {sandbox.CodeInvalidSecrets, "secrets.K.value"},
		`{"secrets":{"K":{"hosts":["h.example"],"value":"hunter2\r\n"}}}`:      {sandbox.CodeInvalidSecrets, "secrets.K.value"},
		`{"secrets":{"A=B":{"hosts":["h.example"],"value":"hunter2hunter2"}}}`: {sandbox.CodeInvalidSecrets, "secrets.A=B"},
		`{"env":{"K":"x"},"secrets":{"K":{"hosts":["h.example"],"value":"hunter2hunter2"}}}`: {
			sandbox.CodeInvalidSecrets, "env.K"},
		`{"allow_net":[],"secrets":{"K":{"hosts":["h.example"],"value":"hunter2hunter2"}}}`: {
			sandbox.CodeSecretHostExcluded, "secrets.K.hosts[0]"},
		`{"allow_net":["h.example:443"],"secrets":{"K":{"hosts":["h.example","other.example"],"value":"hunter2hunter2"}}}`: {
			sandbox.CodeSecretHostExcluded, "secrets.K.hosts[1]"},
		`{"allow_net":["h.example:80"],"secrets":{"K":{"hosts":["h.example:443"],"value":"hunter2hunter2"}}}`: {
			sandbox.CodeSecretHostExcluded, "secrets.K.hosts[0]"},
	} {
		_, err := read(text)
		public := errs.Public(err)
		switch {
		case err == nil:
			t.Errorf("%s: accepted", text)
		case public.Code != want.code || public.Class != errs.Invalid || !strings.Contains(public.Message, want.names):
			t.Errorf("%s: %s %s: %s", text, public.Class, public.Code, public.Message)
		case strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "4711"):
			t.Errorf("%s: the value is in %q", text, err)
		}
	}
}

func TestSecretHostsThatCanBeReached(t *testing.T) {
	for _, hosts := range []string{
		`"api.example.com"`, `"api.example.com:443"`, `"*.example.com"`, `"*.com"`, `"192.0.2.7"`, `"192.0.2.7:8080"`, `"[2001:db8::1]"`, `"h.example"`, `"*.h.example"`,
	} {
		text := `{"allow_net":["*.example.com","192.0.2.0/24","[2001:db8::1]:443","h.example:443","*.h.example:443"],
			"secrets":{"K":{"hosts":[` + hosts + `],"value":"hunter2hunter2"}}}`
		if _, err := read(text); err != nil {
			t.Errorf("%s: %v", hosts, err)
		}
	}
}

func withCeiling(t *testing.T, test func(w *world)) {
	ceilings, err := sandbox.NewCeilings([]string{"*.example.com", "*.example.org"}, map[string][]string{"org_narrow": {"api.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(o *sandbox.Options) { o.Ceilings = ceilings }, test)
}

func TestCeiling(t *testing.T) {
	withCeiling(t, func(w *world) {
		for _, c := range []struct{ org, config, code, names string }{
			{org, `{}`, "", ""},
			{org, `{"allow_net":[]}`, "", ""},
			{org, `{"allow_net":["a.example.com","*.b.example.org:443"]}`, "", ""},
			{org, `{"allow_net":["a.example.com","example.net"]}`, sandbox.CodeOutsideCeiling, "allow_net[1]"},
			{org, `{"allow_net":["*.com"]}`, sandbox.CodeOutsideCeiling, "allow_net[0]"},
			{"org_narrow", `{"allow_net":["a.example.com"]}`, sandbox.CodeOutsideCeiling, "allow_net[0]"},
			{"org_narrow", `{"allow_net":["api.example.com"]}`, "", ""},
			{org, `{"secrets":{"K":{"hosts":["a.example.com"],"value":"hunter2hunter2"}}}`, "", ""},
			{org, `{"secrets":{"K":{"hosts":["example.net"],"value":"hunter2hunter2"}}}`, sandbox.CodeSecretHostExcluded, "secrets.K.hosts[0]"},
		} {
			spec, err := read(c.config)
			w.must(err)
			client, err := w.Create(w.t.Context(), c.org, spec)
			if c.code != "" {
				wantCode(w.t, err, c.code)
				if err != nil && !strings.Contains(err.Error(), c.names) {
					w.t.Errorf("%s: %v", c.config, err)
				}
				continue
			}
			w.must(err)
			got, _ := w.launcher.Shim(client.ID()).Received()
			if len(got.Ceiling) == 0 {
				w.t.Errorf("%s: the shim knows no ceiling", c.config)
			}
			client.Close()
		}
	})
}

func TestCeilingsThatAreNone(t *testing.T) {
	for name, c := range map[string]struct {
		general []string
		orgs    map[string][]string
	}{
		"bad entry":              {[]string{"a b"}, nil},
		"bad entry of one":       {nil, map[string][]string{"o": {""}}},
		"wider than the general": {[]string{"*.example.com"}, map[string][]string{"o": {"example.org"}}},
	} {
		if _, err := sandbox.NewCeilings(c.general, c.orgs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNetworkOfALiveSandbox(t *testing.T) {
	withCeiling(t, func(w *world) {
		spec, err := read(`{"allow_net":["a.example.com"],"secrets":{"K":{"hosts":["a.example.com"],"value":"hunter2hunter2"}}}`)
		w.must(err)
		c, err := w.Create(w.t.Context(), org, spec)
		w.must(err)
		want := api.NetworkPolicy{
			AllowNet: &[]string{"a.example.com"}, Ceiling: []string{"*.example.com", "*.example.org"},
			Secrets: []api.NetworkSecret{{Name: "K", Hosts: []string{"a.example.com"}}},
		}
		got, err := w.Network(w.t.Context(), org, c.ID())
		w.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			w.t.Error(diff)
		}
		want.AllowNet = &[]string{"b.example.org"}
		got, err = w.SetNetwork(w.t.Context(), org, c.ID(), &[]string{"B.example.org."})
		w.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			w.t.Error(diff)
		}
		_, err = w.SetNetwork(w.t.Context(), org, c.ID(), &[]string{"example.net"})
		wantCode(w.t, err, sandbox.CodeOutsideCeiling)
		_, err = w.SetNetwork(w.t.Context(), org, c.ID(), &[]string{""})
		wantCode(w.t, err, sandbox.CodeInvalidAllowNet)
		_, err = w.SetNetwork(w.t.Context(), "org_2", c.ID(), nil)
		wantCode(w.t, err, "SANDBOX_NOT_FOUND")
		_, err = w.Network(w.t.Context(), "org_2", c.ID())
		wantCode(w.t, err, "SANDBOX_NOT_FOUND")

		w.restartWith(c) // the shim holds the truth
		got, err = w.Network(w.t.Context(), org, c.ID())
		w.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			w.t.Error(diff)
		}
		w.must(w.Kill(w.t.Context(), org, c.ID()))
		_, err = w.Network(w.t.Context(), org, c.ID())
		wantCode(w.t, err, "SANDBOX_STOPPED")
	})
}

// restartWith is restart for a sandbox whose client goes when it is told to.
func (w *world) restartWith(c *sandbox.Client) {
	w.t.Helper()
	go func() { <-c.Context().Done(); c.Close() }()
	w.restart()
}

func TestAuditFilesLiveAsLongAsTheRow(t *testing.T) {
	data := layout.Data{Dir: t.TempDir()}
	write := func(path string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	orphan, foreign := data.Audit(sandbox.NewID("ord")), filepath.Join(data.Audits(), "notes.txt")
	write(orphan)
	write(foreign)
	run(t, func(o *sandbox.Options) { o.Data = data }, func(w *world) {
		w.must(w.Recover(w.t.Context()))
		if exists(orphan) || !exists(foreign) {
			w.t.Error("the start removes the files of unknown sandboxes, and no others")
		}
		c := w.create(time.Minute)
		c.Close()
		ended := func(f sandbox.AuditFiles) bool {
			select {
			case <-f.Ended:
				return true
			default:
				return false
			}
		}
		running, err := w.AuditFiles(w.t.Context(), org, c.ID())
		current, older := running.Current, running.Older
		if err != nil || ended(running) || current != data.Audit(c.ID()) || older != data.OlderAudit(c.ID()) {
			w.t.Errorf("%+v %v", running, err)
		}
		write(current)
		write(older)
		_, err = w.AuditFiles(w.t.Context(), "org_2", c.ID())
		wantCode(w.t, err, "SANDBOX_NOT_FOUND")
		time.Sleep(time.Minute)
		w.wantStopped(c.ID(), api.StopTimeout)
		w.must(w.Purge(w.t.Context()))
		stopped, err := w.AuditFiles(w.t.Context(), org, c.ID())
		if err != nil || !ended(stopped) || !ended(running) || !exists(current) || !exists(older) {
			w.t.Errorf("after the end: %+v %v", stopped, err)
		}
		time.Sleep(25 * time.Hour)
		w.must(w.Purge(w.t.Context()))
		if exists(current) || exists(older) {
			w.t.Error("the files are still there without a row")
		}
	})
}

// TestSecretsAreNotShown prints, logs and encodes what carries a secret.
func TestSecretsAreNotShown(t *testing.T) {
	cfg := api.SandboxConfig{Secrets: map[string]api.Secret{"K": {
		Hosts: []string{"h.example"}, Value: "hunter2hunter2",
		Sign: &api.SecretSign{Type: "aws", KeyID: "hunter2key", SessionToken: "hunter2session"},
	}}}
	spec, err := sandbox.NewSpec(cfg, limits, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if spec.Secrets.Specs()["K"].Sign.SessionToken != "hunter2session" {
		t.Error("the secret did not arrive whole")
	}
	shim := sandbox.ShimSpec{Personal: sandbox.Personal{Secrets: spec.Secrets}, Proxy: "http://u:hunter2@proxy:1"}
	for _, v := range []any{spec, &spec, shim, &shim, shim.Personal, spec.Secrets, shim.Proxy, cfg, &cfg, cfg.Secrets, cfg.Secrets["K"], cfg.Secrets["K"].Sign} {
		wantHidden(t, v)
	}
	for _, v := range []any{spec, shim.Personal} { // the wire form of the configuration holds it, the daemon's own does not
		raw, err := json.Marshal(v)
		if err != nil || strings.Contains(string(raw), "hunter2") {
			t.Errorf("%s %v", raw, err)
		}
	}
	spec.Secrets.Drop()
	if shim.Secrets.Specs() != nil {
		t.Error("a copy still holds the secrets after they were dropped")
	}
}
