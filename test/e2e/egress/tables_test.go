package egress

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const threatModel = "../../../docs/threat-model.md"

// row is one line of a table of the threat model: an id in backticks, what it
// is, and what holds.
var row = regexp.MustCompile("^\\| `([a-z0-9-]+)` \\| (.+) \\| (.+) \\|$")

// table returns the rows below a heading.
func table(t *testing.T, heading string) (ids []string, what map[string]string) {
	t.Helper()
	text, err := os.ReadFile(threatModel)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no part %q", heading)
	}
	section, _, _ := strings.Cut(rest, "\n## ")
	what = map[string]string{}
	for line := range strings.Lines(section) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			ids, what[m[1]] = append(ids, m[1]), m[2]
		}
	}
	return ids, what
}

// TestTablesMatch holds the threat model and the fixtures together: the same
// rows, in the same order, in the same words.
func TestTablesMatch(t *testing.T) {
	var ids, texts []string
	for _, e := range evasions() {
		ids, texts = append(ids, e.id), append(texts, e.attack)
	}
	compare(t, "Ways out", ids, texts)
	ids, texts = nil, nil
	for _, u := range uses() {
		ids, texts = append(ids, u.id), append(texts, u.what)
	}
	compare(t, "Secrets", ids, texts)
}

func compare(t *testing.T, heading string, ids, texts []string) {
	t.Helper()
	rows, what := table(t, heading)
	if !slices.Equal(rows, ids) {
		t.Errorf("%s: the threat model has the rows\n%q\nand the fixtures are\n%q", heading, rows, ids)
	}
	seen := map[string]bool{}
	for i, id := range ids {
		if seen[id] {
			t.Errorf("%s: two fixtures are called %s", heading, id)
		}
		if seen[id] = true; what[id] != texts[i] {
			t.Errorf("%s: %s is %q in the threat model and %q here", heading, id, what[id], texts[i])
		}
	}
}

// TestRowsSayWhatTheyProve: an attack succeeds with the open policy, or says
// why it can't.
func TestRowsSayWhatTheyProve(t *testing.T) {
	for _, e := range evasions() {
		if e.script == "" || e.blunt != "" && e.open != "" {
			t.Errorf("%s: a script and either open or blunt", e.id)
		}
	}
	for _, u := range uses() {
		if len(u.arrives)+len(u.prints)+len(u.absent) == 0 && !u.silent && u.in != vaultOpen {
			t.Errorf("%s: nothing is expected of it", u.id)
		}
	}
}
