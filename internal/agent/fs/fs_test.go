package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
)

func TestMain(m *testing.M) {
	// The regexp engine's clock for match timeouts stops by itself later.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

// newService serves a fresh directory as the user who runs the tests.
func newService(t *testing.T) (*Service, string) {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{UserID: uint32(os.Getuid()), GroupID: uint32(os.Getgid()), Home: home, TempDir: home})
	t.Cleanup(s.Close)
	return s, home
}

func ptr[T any](v T) *T { return &v }

func at(path string) api.PathParams { return api.PathParams{Path: path} }

// put writes a file below dir, making its parents.
func put(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// wantError checks the class and the code that a client would see.
func wantError(t *testing.T, err error, class, code string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s %s", class, code)
	}
	var e *api.RemoteError
	if !errors.As(remote(err), &e) {
		t.Fatalf("%v is no remote error", err)
	}
	got := ""
	if e.Code != nil {
		got = *e.Code
	}
	if e.ConstructorName != class || got != code {
		t.Fatalf("error %s %q (%s), want %s %q", e.ConstructorName, got, e.Message, class, code)
	}
}

func TestRemoteErrorText(t *testing.T) {
	s, _ := newService(t)
	_, err := s.stat(context.Background(), at("nope"))
	if got, want := remote(err).Error(), "NotFound: No such file or directory (os error 2): stat 'nope'"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
