package sandbox_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// wantHidden looks for a value in all that fmt and slog make of v.
func wantHidden(t *testing.T, v any) {
	t.Helper()
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", v)
	}
	text := slog.New(slog.NewTextHandler(&out, nil))
	text.Info("text", "v", v, "error", fmt.Errorf("about %v: %w", v, errors.New("x")))
	for _, secret := range []string{"hunter2", fmt.Sprintf("%x", "hunter2")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("a %T shows it: %s", v, out.String())
		}
	}
}
