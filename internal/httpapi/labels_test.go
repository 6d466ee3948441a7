package httpapi

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

func TestParseDict(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`{}`:                            {},
		`{'a': 'b'}`:                    {"a": "b"},
		`{"a": "b", 'c': "d'e"}`:        {"a": "b", "c": "d'e"},
		`{'a': 'it\'s', 'n': 'x\n\\'}`:  {"a": "it's", "n": "x\n\\"},
		`{'\xe9': '\u20ac\U0001f600é'}`: {"é": "€😀é"},
		` { 'a' : 'b' , } `:             {"a": "b"},
		`{'a': ', }'}`:                  {"a": ", }"},
	} {
		got := map[string]string{}
		if !parseDict(text, got) {
			t.Errorf("%s: refused", text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", text, diff)
		}
	}
	for _, bad := range []string{``, `{`, `}`, `[]`, `{'a'}`, `{'a': }`, `{'a': 1}`, `{'a': 'b'`, `{'a': 'b'}}`, `{'a': 'b`, `{'a': '\`, `{'a': '\q'}`, `{'a': '\x1'}`, `{,}`, `{'a' 'b'}`, `{'a': 'b' 'c': 'd'}`, `{'\Uffffffff': ''}`} {
		if parseDict(bad, map[string]string{}) {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// FuzzLabels: a filter is bounded or refused with a code.
func FuzzLabels(f *testing.F) {
	f.Add("labels", `{'a': 'b'}`)
	f.Add("labels[a]", "b")
	f.Fuzz(func(t *testing.T, name, value string) {
		labels, err := readLabels(url.Values{name: {value}})
		if err != nil && errs.Public(err).Code != "INVALID_FILTER" || len(labels) > 2*api.MaxLabels {
			t.Errorf("%v %v", labels, err)
		}
	})
}
