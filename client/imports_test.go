package client_test

import (
	"go/build"
	"strings"
	"testing"
)

// TestImports keeps the SDK small: whoever imports it pulls in the wire types,
// a WebSocket library and the standard library, and none of the server.
func TestImports(t *testing.T) {
	pkg, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pkg.Imports {
		known := path == "github.com/atollhq/atoll/api" || path == "github.com/coder/websocket"
		if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") && !known {
			t.Errorf("package client imports %s", path)
		}
	}
}
