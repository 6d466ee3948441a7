package cli

import (
	"testing"
	"time"
)

func TestParseMemory(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "1280": 1280, "2GiB": 2048, "2gib": 2048, "1.5GiB": 1536, "1280MiB": 1280,
		"1GB": 953, "800MB": 762, "900000kB": 858, "1048576KiB": 1024,
	} {
		if got, err := parseMemory(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"lots", "-1", "1 GiB", "1TiB", "0", "1KiB", "NaN", "1e9", "99999999999999GiB"} {
		if got, err := parseMemory(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
}

func FuzzParseMemory(f *testing.F) {
	f.Add("2GiB")
	f.Add("0.000001kB")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseMemory(s); err == nil && s != "" && n <= 0 {
			t.Errorf("%q: %d", s, n)
		}
	})
}

func TestParsePlace(t *testing.T) {
	const id = "sbx_ord_0123456789abcdefghjk"
	for in, want := range map[string]place{
		id + ":/etc":    {id, "/etc"},
		id + ":":        {id, "."},
		id + ":a:b":     {id, "a:b"},
		"./" + id + ":": {"", "./" + id + ":"},
		"c:/x":          {"", "c:/x"},
		"sbx_ord_0:x":   {"", "sbx_ord_0:x"},
	} {
		if got := parsePlace(in); got != want {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
}

func TestBaseName(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a", "a/b": "b", "a/b/": "b", "a/.": ".", ".": ".", "..": ".", "a/..": ".", "/": ".", "": ".",
	} {
		if got := baseName(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestPlainName(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00"} {
		if plainName(name) {
			t.Errorf("%q was accepted", name)
		}
	}
	if !plainName("...") || !plainName("-") {
		t.Error("a good name was refused")
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 90 * time.Second: "90s", 3 * time.Minute: "3m", 5 * time.Hour: "5h", 72 * time.Hour: "3d",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	if got := quote(`a'b $c`); got != `'a'"'"'b $c'` {
		t.Error(got)
	}
}
