package httpapi

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var codePattern = regexp.MustCompile("[\"`]([A-Z]+(?:_[A-Z]+)+)[\"`]")

// inside are codes that no caller of the API gets.
var inside = []string{
	"SHIM_ENDED", "CANNOT_PAUSE", "CANNOT_FORK", // between daemon and shim
	"PROGRAM_MISSING", "STORE_TOO_NEW", // end the server at its start
	"INVALID_TOKEN_NAME", "TOKEN_NOT_FOUND", "TOKEN_AMBIGUOUS", "ORG_NOT_FOUND", // of the command line
}

// TestPageOfErrors: docs/protocol.md has a row for every code that a call may
// fail with, and for none that doesn't exist.
func TestPageOfErrors(t *testing.T) {
	used := codesOf(t, "*.go", "../sandbox/*.go", "../auth/*.go", "../store/*.go", "../errs/*.go", "../shim/wire/*.go", "../serve/launcher.go")
	raw, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for section := range strings.SplitSeq(string(raw), "\n### ") {
		if !strings.HasPrefix(section, "Errors of ") {
			continue
		}
		for line := range strings.Lines(section) {
			if strings.HasPrefix(line, "| ") {
				documented = append(documented, codesIn(line)...)
			}
		}
	}
	for _, code := range used {
		if slices.Contains(documented, code) == slices.Contains(inside, code) {
			t.Errorf("%s has a row and is not for callers, or has none and is", code)
		}
	}
	for _, code := range documented {
		if !slices.Contains(used, code) {
			t.Errorf("there is no code %s", code)
		}
	}
}

func codesOf(t *testing.T, patterns ...string) (codes []string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files (%v)", pattern, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, codesIn(string(raw))...)
		}
	}
	return codes
}

func codesIn(text string) (codes []string) {
	for _, match := range codePattern.FindAllStringSubmatch(text, -1) {
		codes = append(codes, match[1])
	}
	return codes
}
