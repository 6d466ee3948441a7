//go:build e2e

package machine

import (
	"os"
	"strconv"
	"testing"

	"github.com/atollhq/atoll/internal/cgroup"
)

// These tests start machines without a server, which would do this at its end.
func TestMain(m *testing.M) {
	if id := os.Getenv(victimVariable); id != "" {
		victim(id)
	}
	if dir := os.Getenv(makerVariable); dir != "" {
		maker(dir)
	}
	if n, err := strconv.Atoi(os.Getenv(hogVariable)); err == nil {
		hog(n)
	}
	code := m.Run()
	closeTemplates()
	cgroup.RemoveParent()
	os.Exit(code)
}
