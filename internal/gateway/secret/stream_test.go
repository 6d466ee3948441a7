package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"html"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// pass sends text through in pieces that end where cuts say.
func pass(t interface{ Fatal(...any) }, rw Rewriter, text []byte, cuts []int) []byte {
	var out []byte
	var err error
	at := 0
	for _, cut := range cuts {
		if out, err = rw.Rewrite(out, bytes.Clone(text[at:cut]), false); err != nil {
			t.Fatal(err)
		}
		at = cut
	}
	if out, err = rw.Rewrite(out, bytes.Clone(text[at:]), true); err != nil {
		t.Fatal(err)
	}
	return out
}

func redactorOf(values ...string) *finder {
	var all []*one
	for i, v := range values {
		all = append(all, &one{index: i, spec: Spec{Value: v}, placeholder: newPlaceholder(len(v))})
	}
	return newRedactor(all)
}

func drawCuts(t *rapid.T, size int) []int {
	cuts := rapid.SliceOfN(rapid.IntRange(0, size), 0, 12).Draw(t, "cuts")
	slices.Sort(cuts)
	return cuts
}

// TestNoValueSurvives puts values in all forms among other text, cuts it
// anywhere, and looks at what passes.
func TestNoValueSurvives(t *testing.T) {
	for name, encode := range encodings {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			value := values.Draw(t, "value")
			before := rapid.StringMatching(`[a-z:]{0,4}`).Draw(t, "before")
			first, after := rapid.StringMatching(`[A-Z]{0,30}#`).Draw(t, "first"), rapid.StringMatching(`#[ -~]{0,30}`).Draw(t, "after")
			text := first + encode(t, before, value) + after
			keep := rapid.Bool().Draw(t, "keep")
			out := string(pass(t, redactorOf(value).redact(keep), []byte(text), drawCuts(t, len(text))))
			if survives(out, value) || keep && len(out) != len(text) {
				t.Fatalf("%q became %q", text, out)
			}
			if !strings.HasPrefix(out, first) || !strings.HasSuffix(out, after) {
				t.Fatalf("what stands around it changed: %q became %q", text, out)
			}
		}))
	}
}

// TestBase64BecomesPlaceholder decodes what was rewritten in base64.
func TestBase64BecomesPlaceholder(t *testing.T) {
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
		for _, value := range []string{"hunter2-hunter2", "hunter2-hunter2-", "hunter2-hunter2-?", "ÿþÿþ??>>~~~"} {
			f := redactorOf(value)
			for around := range 16 {
				head, tail := strings.Repeat("\xff", around/4), strings.Repeat("\xf3", around%4)
				text := enc.EncodeToString([]byte(head + value + tail))
				out := pass(t, f.redact(false), []byte("x "+text+" y"), nil)
				got, err := enc.DecodeString(string(out[2 : len(out)-2]))
				if want := head + string(f.needles[0].with) + tail; err != nil || string(got) != want {
					t.Errorf("%q: %q, %v; want %q", head+value+tail, got, err, want)
				}
			}
		}
	}
}

// TestOtherTextPasses sends text without a value through.
func TestOtherTextPasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := redactorOf(values.Draw(t, "value"), "another-value-that-is-long")
		text := rapid.SliceOf(rapid.SampledFrom([]byte("anothervlueis-% \\u&#;x61bcd0+/"))).Draw(t, "text")
		for _, n := range f.needles {
			if survives(string(text), string(n.text)) {
				t.Skip()
			}
		}
		if out := pass(t, f.redact(false), text, drawCuts(t, len(text))); !bytes.Equal(out, text) {
			t.Fatalf("%q became %q", text, out)
		}
	})
}

// TestReplacementIsReplaceAll compares the search with the simplest one.
func TestReplacementIsReplaceAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		searched := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 8, 12, -1).Draw(t, "searched")
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 3000, -1).Draw(t, "text")
		f := newFinder([]needle{{text: []byte(searched)}})
		rw := &stream{find: f, put: func(dst []byte, _ match, _ []byte) ([]byte, error) { return append(dst, "<>"...), nil }}
		out := pass(t, rw, []byte(text), drawCuts(t, len(text)))
		if want := strings.ReplaceAll(text, searched, "<>"); string(out) != want {
			t.Fatalf("%q in %q: %q; want %q", searched, text, out, want)
		}
	})
}

// TestEventsAreNotHeld asks what passes at once.
func TestEventsAreNotHeld(t *testing.T) {
	f := redactorOf("sk-live-0123456789", "with space & more")
	for text, want := range map[string]string{
		"data: {\"a\": 1}\n\n": "data: {\"a\": 1}\n\n",
		"data: sk-live-01":     "data: ",
		"data: c2stbGl2ZS0w":   "data: ", // base64
		"data: %73k-":          "data: ",
		"data: sk%2":           "data: ",
		`data: sk\u002dli`:     "data: ",
		"data: sk\\u002dlx\n":  "data: sk\\u002dlx\n",
		"data: with&#32;sp":    "data: ",
		"data: with+sp":        "data: ",
		"data: R&D\n":          "data: R&D\n",
		"data: 736b2D!":        "data: 736b2D!",
		"data: 736b2d":         "data: ",
	} {
		out, err := f.redact(false).Rewrite(nil, []byte(text), false)
		if err != nil || string(out) != want {
			t.Errorf("%q: %q passed, %v; want %q", text, out, err, want)
		}
	}
}

// TestLongestWins has one value begin with another one.
func TestLongestWins(t *testing.T) {
	f := redactorOf("abcdefgh", "abcdefghijkl")
	out := pass(t, f.redact(false), []byte("abcdefghijkl abcdefghij"), []int{8, 9, 20})
	if want := string(f.needles[1].with) + " " + string(f.needles[0].with) + "ij"; string(out) != want {
		t.Errorf("%q; want %q", out, want)
	}
}

// FuzzStream: any splitting has the result of one piece.
func FuzzStream(f *testing.F) {
	find := redactorOf("abcdabcd", "abcdabcdefgh", "bcd%26&é+/ \\u", "dabcdabc--")
	for _, seed := range []string{"xabcdabcdefg", "%61bcdabcd", `\u0061bcdabcdefgh`, "&#97;bcdabcd&", "YWJjZGFiY2Q=", "bcd%2526%26%c3%a9+/ \\u", "6162636461626364"} {
		f.Add([]byte(seed), uint64(1))
	}
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		if len(text) > 1<<12 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for at := 0; at < len(text); at += 1 + r.IntN(12) {
			cuts = append(cuts, at)
		}
		whole := pass(t, find.redact(false), text, nil)
		if out := pass(t, find.redact(false), text, cuts); !bytes.Equal(out, whole) {
			t.Fatalf("cut at %d: %q becomes %q, as a whole %q", cuts, text, out, whole)
		}
		if out := pass(t, find.redact(true), text, cuts); len(out) != len(text) {
			t.Fatalf("the length changed from %d to %d", len(text), len(out))
		}
	})
}

// FuzzEscapes compares each reader of escapes with the standard library's.
func FuzzEscapes(f *testing.F) {
	for _, seed := range []string{"%41", "%4", `\u0041`, `\ud83d\ude00`, `\n`, "&amp;", "&#65;", "&#x41;", "&lowbar;"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range []*escape{percent, slash, entity} {
			if len(b) == 0 || b[0] != e.sign {
				continue
			}
			c, size := e.decode(b)
			if size > len(b) || size > e.widest*max(c.n, 1) {
				t.Fatalf("%q: size %d", b, size)
			}
			if size > 0 {
				checkEscape(t, e, string(b[:size]), string(c.text()))
			}
		}
	})
}

func checkEscape(t *testing.T, e *escape, escaped, got string) {
	want := got
	switch e {
	case percent:
		want = unpercent(escaped, false)
	case slash:
		if json.Unmarshal([]byte(`"`+escaped+`"`), &want) != nil {
			want = got // one of JSON's relatives
		}
	case entity:
		want = html.UnescapeString(escaped)
		if strings.ContainsFunc(want, func(r rune) bool { return r >= 0x80 }) {
			return // HTML maps some numbers to other characters
		}
	}
	if got != want {
		t.Fatalf("%q: %q; want %q", escaped, got, want)
	}
}

func TestEntities(t *testing.T) {
	for name, c := range entities {
		if got := html.UnescapeString("&" + name + ";"); got != string(rune(c)) {
			t.Errorf("&%s; is %q, not %q", name, got, c)
		}
		if len(name)+2 > maxEntity {
			t.Errorf("&%s; is too long to be read", name)
		}
	}
}
