package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPage: docs/settings.md has every setting, as the program has it.
func TestPage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	for name, settings := range map[string][]Setting{
		"Server": serverSettings(), "Limits": limitSettings(), "Lifetimes": lifetimeSettings(), "Network": networkSettings(), "Logs": logSettings(),
	} {
		if want := "## " + name + "\n\n" + table(settings); !strings.Contains(page, want) {
			t.Errorf("docs/settings.md must have:\n%s", want)
		}
	}
}

func table(settings []Setting) string {
	var out strings.Builder
	out.WriteString("| setting | default | meaning |\n| --- | --- | --- |\n")
	for _, s := range settings {
		value := ""
		if d := s.Default(); d != "" {
			value = "`" + d + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", s.Key, value, s.Doc)
	}
	return out.String()
}
