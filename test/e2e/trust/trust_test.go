//go:build e2e

// Package trust tests that programs in a sandbox trust the certificates that
// they are meant to trust, and no others, with the programs that people use.
// The harness's extra root stands for every such certificate.
//
// What a program says is not believed: a request must have arrived, which it
// can only over a verified connection.
package trust

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// Programs by name. In each, URL stands for one that the program must ask
// for, or something below it.
var programs = map[string]string{
	"curl":       `curl -sS --max-time 60 URL`,
	"wget":       `wget -qO- --timeout=60 --tries=1 URL`,
	"openssl":    `printf 'GET PATH HTTP/1.0\r\nHost: HOST\r\n\r\n' | openssl s_client -quiet -no_ign_eof -verify_return_error -verify_hostname HOST -connect HOST:443`,
	"git":        `git ls-remote URL`,
	"deno":       `deno eval 'await fetch("URL")'`,
	"node-fetch": `node -e 'fetch("URL").catch((e) => { console.error(e.cause); process.exit(1) })'`,
	"node-https": `node -e 'require("https").get("URL", (r) => r.resume())'`,
	"npm":        `npm view --registry URL --fetch-retries 0 anything`,
	"python":     `python3 -c 'import urllib.request; urllib.request.urlopen("URL", timeout=60)'`,
	"pip":        `pip download --no-cache-dir --disable-pip-version-check --retries 0 --index-url URL anything`,
	"venv-pip":   `/home/app/venv/bin/pip download --no-cache-dir --disable-pip-version-check --retries 0 --index-url URL anything`,
	"requests":   `/home/app/venv/bin/python -c 'import requests; requests.get("URL", timeout=60)'`,
	"httpx":      `/home/app/venv/bin/python -c 'import httpx; httpx.get("URL", timeout=60)'`,
	"aiohttp": `/home/app/venv/bin/python -c '
import aiohttp, asyncio
async def main():
    async with aiohttp.request("GET", "URL"): pass
asyncio.run(main())'`,
	"uv": `/home/app/venv/bin/uv --no-cache pip install --python /home/app/venv/bin/python --index-url URL anything`,
	"go": `/home/app/goget URL`,

	// The files alone, for programs that get no environment.
	"bundle":    `env -i curl -sS --max-time 60 URL`,
	"directory": `env -i python3 -c 'import ssl, urllib.request as u; u.urlopen("URL", timeout=60, context=ssl.create_default_context(capath="/etc/ssl/certs"))'`,
}

// The users that they run as: a script, quoted, follows.
var users = map[string]string{"app": "bash -c ", "root": "sudo -n bash -c "}

func TestPrograms(t *testing.T) {
	ctx, s, c := setup(t, "--spares", "0")
	for name, script := range programs {
		for user, as := range users {
			t.Run(name+"/"+user, func(t *testing.T) {
				wantArrival(ctx, t, s, c, as, script, harness.WebHost, true)
			})
		}
		t.Run(name+"/untrusted", func(t *testing.T) {
			wantArrival(ctx, t, s, c, users["app"], script, harness.UntrustHost, false)
		})
	}
}

// TestLate: a sandbox that was started before anybody asked for it trusts the
// same, and has the variables beside the client's.
func TestLate(t *testing.T) {
	ctx, s, c := setup(t, "--spares", "1")
	if got := c.MustShell(ctx, t, "echo $GREETING $PIP_CERT"); got != "hello /mine\n" {
		t.Errorf("variables of the client: %s", got)
	}
	for name, script := range programs {
		if strings.Contains(name, "pip") {
			continue // the client said otherwise
		}
		t.Run(name, func(t *testing.T) {
			wantArrival(ctx, t, s, c, users["app"], script, harness.WebHost, true)
		})
	}
}

// TestCalls: what the SDKs call makes requests, too: the agent itself, and
// sessions of Deno.
func TestCalls(t *testing.T) {
	s := harness.New(t, "--spares", "1")
	ctx := harness.Context(t, 3*harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	var repl api.SpawnResult
	if err := c.Call(ctx, "spawnDenoRepl", map[string]any{"stdout": "null", "stderr": "null"}, &repl); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{harness.WebHost: true, harness.UntrustHost: false} {
		err := c.Call(ctx, "fetch", map[string]any{"url": "https://" + host + "/fetch", "method": "GET", "headers": [][2]string{}, "redirect": "follow"}, nil)
		if (err == nil) != want || slices.Contains(s.Internet.Seen(), host+" /fetch") != want {
			t.Errorf("fetch from %s: %v", host, err)
		}
		code := `await fetch("https://` + host + `/session").then(() => "got it").catch((e) => String(e))`
		err = c.Call(ctx, "denoReplEval", map[string]any{"pid": repl.PID, "code": code}, nil)
		if err != nil || slices.Contains(s.Internet.Seen(), host+" /session") != want {
			t.Errorf("session of Deno, %s: %v", host, err)
		}
	}
}

// TestUpdateCACertificates: Debian's own tool changes nothing, and takes
// nothing away.
func TestUpdateCACertificates(t *testing.T) {
	s := harness.New(t)
	ctx := harness.Context(t, 3*harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	if out := c.MustShell(ctx, t, "sudo -n update-ca-certificates 2>&1"); !strings.Contains(out, "0 added, 0 removed") {
		t.Errorf("there was something to do: %s", out)
	}
	for _, change := range []string{"", "sudo -n update-ca-certificates --fresh"} {
		c.MustShell(ctx, t, change)
		for _, name := range []string{"bundle", "directory", "node-fetch"} {
			wantArrival(ctx, t, s, c, users["app"], programs[name], harness.WebHost, true)
		}
	}
}

// setup makes a sandbox that has what the programs need. Its image has
// neither libraries for Python nor a compiler for Go.
func setup(t *testing.T, flags ...string) (context.Context, *harness.Server, *harness.Conn) {
	t.Helper()
	s := harness.New(t, flags...)
	ctx := harness.Context(t, 15*time.Minute)
	env := map[string]string{"GREETING": "hello"}
	if slices.Contains(flags, "1") {
		env["PIP_CERT"] = "/mine"
	}
	c := s.MustCreate(ctx, t, map[string]any{"env": env})
	for _, file := range append(wheels(ctx, t), goget(ctx, t)) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Call(ctx, "writeFile", map[string]any{"path": filepath.Base(file), "content": raw}, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.MustShell(ctx, t, `chmod +x goget && python3 -m venv venv && venv/bin/pip install -q --no-index --no-deps *.whl && rm *.whl`)
	return ctx, s, c
}

// wheels are the libraries, from the registry of Python's packages.
func wheels(ctx context.Context, t *testing.T) []string {
	t.Helper()
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	dir := t.TempDir()
	run(ctx, t, "python3", "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--python-version", "3.13",
		"--platform", "any", "--platform", "manylinux_2_17_"+arch, "--platform", "manylinux2014_"+arch, "--dest", dir, "--requirement", "requirements.txt")
	files, _ := filepath.Glob(filepath.Join(dir, "*.whl"))
	if len(files) == 0 {
		t.Fatal("no wheels")
	}
	return files
}

func goget(ctx context.Context, t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "goget")
	run(ctx, t, "go", "build", "-o", file, "./testdata/goget")
	return file
}

func run(ctx context.Context, t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.WaitDelay = append(os.Environ(), "CGO_ENABLED=0"), harness.Patience
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("run %s: %v\n%s", name, err, out)
	}
}

// wantArrival runs a program against a host and says whether its request must
// arrive there.
func wantArrival(ctx context.Context, t *testing.T, s *harness.Server, c *harness.Conn, as, script, host string, want bool) {
	t.Helper()
	path := fmt.Sprintf("/n%d", len(s.Internet.Seen()))
	filled := strings.NewReplacer("URL", "https://"+host+path, "HOST", host, "PATH", path).Replace(script)
	out, err := c.Shell(ctx, as+"'"+strings.ReplaceAll(filled, "'", `'\''`)+"'")
	if err != nil {
		t.Fatal(err)
	}
	arrived := slices.ContainsFunc(s.Internet.Seen(), func(seen string) bool {
		return seen == host+" "+path || strings.HasPrefix(seen, host+" "+path+"/")
	})
	if arrived != want {
		t.Errorf("%s: arrived %v, want %v: code %d\n%s%s", filled, arrived, want, out.Code, out.Stdout, out.Stderr)
	}
}
