package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client/clienttest"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/cli"
	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/layout"
	"github.com/atollhq/atoll/internal/store"
)

// TestMain makes this binary serve as the atoll command of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"atoll": func() { os.Exit(atoll()) }})
}

func atoll() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return cli.Main(ctx, os.Args[1:], cli.IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: "test",
		Serve: fakeServe,
	})
}

// fakeServe only says what it was asked for.
func fakeServe(_ context.Context, s config.Server, log *slog.Logger) error {
	fmt.Println("listen", s.Listen, "data", s.DataDir, "regions", s.Regions)
	log.Info("served")
	return nil
}

// TestScripts runs each story in testdata against a server of its own, which
// the story finds in the data directory $DATA.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":       cmdExit,
			"readid":     cmdReadID,
			"initstore":  cmdInitStore,
			"firsttoken": cmdFirstToken,
			"record":     cmdRecord,
			"secret":     cmdSecret,
		},
	})
}

func setup(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, ".server")
	data := filepath.Join(env.WorkDir, ".data")
	for _, d := range []string{dir, data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	srv := clienttest.New(dir)
	env.Defer(srv.Close)
	env.Values["server"] = srv
	env.Setenv("URL", srv.URL)
	env.Setenv("SERVER", dir)
	env.Setenv("DATA", data)
	env.Setenv("ATOLL_DATA_DIR", data)
	env.Setenv("DENO_DEPLOY_TOKEN", "ddp_of_another_service")
	if err := os.WriteFile(filepath.Join(data, "endpoint"), []byte(srv.URL+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(data, "token"), []byte(clienttest.Token+"\n"), 0o600)
}

// cmdExit runs a command and checks its exit code: exit 3 atoll run ….
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit code command [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s; stderr: %s", got, args[0], ts.ReadFile("stderr"))
	}
}

// cmdReadID sets a variable to the last word of the last output.
func cmdReadID(ts *testscript.TestScript, neg bool, args []string) {
	words := strings.Fields(ts.ReadFile("stdout"))
	if neg || len(args) != 1 || len(words) == 0 {
		ts.Fatalf("usage: readid NAME, after a command with output")
	}
	ts.Setenv(args[0], words[len(words)-1])
}

// cmdRecord adds a file's lines to the audit of a sandbox: record ID file.
func cmdRecord(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: record ID file")
	}
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		var r api.AuditRecord
		ts.Check(json.Unmarshal([]byte(line), &r))
		ts.Value("server").(*clienttest.Server).Record(args[0], r)
	}
}

// cmdSecret checks the value of a secret as the server got it: secret ID NAME
// value.
func cmdSecret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: secret ID NAME value")
	}
	if got := ts.Value("server").(*clienttest.Server).Secret(args[0], args[1]); got != args[2] {
		ts.Fatalf("the server got %q", got)
	}
}

// cmdInitStore makes the store that a first start of the server would make.
func cmdInitStore(ts *testscript.TestScript, _ bool, _ []string) {
	ctx := context.Background()
	s, err := store.Open(ctx, layout.Data{Dir: ts.Getenv("DATA")}.Database())
	ts.Check(err)
	_, err = auth.NewKeeper(s, slog.New(slog.DiscardHandler)).EnsureOrg(ctx)
	ts.Check(err)
	ts.Check(s.Close())
}

// cmdFirstToken sets a variable to the id of the oldest token.
func cmdFirstToken(ts *testscript.TestScript, neg bool, args []string) {
	ctx := context.Background()
	s, err := store.Open(ctx, layout.Data{Dir: ts.Getenv("DATA")}.Database())
	ts.Check(err)
	defer s.Close()
	tokens, err := s.Tokens(ctx)
	ts.Check(err)
	if neg || len(args) != 1 || len(tokens) == 0 {
		ts.Fatalf("usage: firsttoken NAME, with a token in the store")
	}
	ts.Setenv(args[0], tokens[0].ID)
}
