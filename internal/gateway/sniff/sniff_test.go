package sniff_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// helloOf is what a real client sends first.
func helloOf(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, cfg).Handshake()
	}()
	var head [5]byte
	if _, err := io.ReadFull(server, head[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	<-done
	return append(head[:], body...)
}

func named(t testing.TB, name string) []byte {
	return helloOf(t, &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}})
}

// split spreads a hello over records of the given size.
func split(hello []byte, size int) (out []byte) {
	for body := hello[5:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, 0x16, 3, 1, byte(n>>8), byte(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

// withExtension adds an extension to a hello.
func withExtension(hello []byte, kind uint16, data []byte) []byte {
	ext := append([]byte{byte(kind >> 8), byte(kind), byte(len(data) >> 8), byte(len(data))}, data...)
	out := append(bytes.Clone(hello), ext...)
	add := func(at, size int) {
		for i := size - 1; i >= 0; i-- {
			sum := int(out[at+i]) + len(ext)>>(8*(size-1-i))&0xff
			out[at+i] = byte(sum)
			for j := at + i - 1; sum > 0xff && j >= at; j-- {
				out[j]++
				if out[j] != 0 {
					break
				}
			}
		}
	}
	add(3, 2) // record
	add(6, 3) // message
	p := 5 + 4 + 2 + 32
	p += 1 + int(out[p])
	p += 2 + int(out[p])<<8 + int(out[p+1])
	p += 1 + int(out[p])
	add(p, 2) // extensions
	return out
}

func TestParseHello(t *testing.T) {
	hello := named(t, "API.example.com")
	want := &sniff.Hello{Name: "api.example.com", ALPN: []string{"h2", "http/1.1"}}
	encrypted := *want
	encrypted.Encrypted = true
	tests := map[string]struct {
		in   []byte
		want *sniff.Hello
		err  error
	}{
		"one record":        {in: hello, want: want},
		"more after it":     {in: append(bytes.Clone(hello), "more"...), want: want},
		"three bytes each":  {in: split(hello, 3), want: want},
		"one byte each":     {in: split(hello, 1), want: want},
		"no name":           {in: helloOf(t, &tls.Config{InsecureSkipVerify: true}), want: &sniff.Hello{}},
		"encrypted":         {in: withExtension(hello, 0xfe0d, []byte{0, 1, 2}), want: &encrypted},
		"encrypted, old":    {in: withExtension(hello, 0xffce, nil), want: &encrypted},
		"a name twice":      {in: withExtension(hello, 0, []byte{0, 5, 0, 0, 2, 'a', 'b'}), err: sniff.ErrMalformed},
		"two names":         {in: withExtension(helloOf(t, &tls.Config{InsecureSkipVerify: true}), 0, []byte{0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b'}), err: sniff.ErrMalformed},
		"name with a space": {in: withExtension(helloOf(t, &tls.Config{InsecureSkipVerify: true}), 0, []byte{0, 5, 0, 0, 2, 'a', ' '}), err: sniff.ErrMalformed},
		"half":              {in: hello[:len(hello)/2], err: sniff.ErrIncomplete},
		"another message":   {in: []byte{0x16, 3, 1, 0, 4, 2, 0, 0, 0}, err: sniff.ErrMalformed},
		"impossible length": {in: []byte{0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, err: sniff.ErrMalformed},
		"empty record":      {in: []byte{0x16, 3, 1, 0, 0}, err: sniff.ErrMalformed},
		"major version 4":   {in: []byte{0x16, 4}, err: sniff.ErrMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := sniff.ParseHello(tt.in)
			if err != tt.err {
				t.Fatalf("err = %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseHelloOfEveryLength(t *testing.T) {
	hello := named(t, "example.com")
	for n := range hello {
		if _, err := sniff.ParseHello(hello[:n]); err != sniff.ErrIncomplete {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
}

func TestClassify(t *testing.T) {
	tests := map[string]struct {
		in   string
		want sniff.Kind
	}{
		"nothing":               {"", sniff.Undecided},
		"hello":                 {string(named(t, "example.com")), sniff.TLS},
		"half a hello":          {string(named(t, "example.com")[:40]), sniff.Undecided},
		"handshake, no hello":   {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", sniff.Unsafe},
		"16 and no TLS":         {"\x16abc", sniff.Unsafe},
		"SSL 2":                 {"\x80\x2e\x01\x00\x02\x00\x15", sniff.Unsafe},
		"SSL 2 to 3":            {"\x80\x2e\x01\x03\x01\x00\x15", sniff.Unsafe},
		"PROXY":                 {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", sniff.Unsafe},
		"PROXY, version 2":      {"\r\n\r\n\x00\r\nQUIT\n", sniff.Unsafe},
		"GET":                   {"GET / HTTP/1.1\r\n", sniff.HTTP1},
		"GET, not ended":        {"GET ", sniff.HTTP1},
		"GE":                    {"GE", sniff.Undecided},
		"own method, not ended": {"BREW / HTTP/1.1", sniff.Undecided},
		"GET, long ago":         {"GET /\n", sniff.HTTP1},
		"get":                   {"get / http/1.0\n", sniff.HTTP1},
		"own method":            {"BREW /pot HTTP/1.1\r\n", sniff.HTTP1},
		"own method, spaces":    {"BREW /pot HTTP/1.1 \t\r\n", sniff.HTTP1},
		"after empty lines":     {"\r\n\n\r\nGET / HTTP/1.1\r\n", sniff.HTTP1},
		"empty lines":           {"\r\n\n", sniff.Undecided},
		"preface":               {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", sniff.HTTP2},
		"half a preface":        {"PRI * HT", sniff.Undecided},
		"preface and not":       {"PRI * HTTP/2.0\r\n\r\nXX", sniff.HTTP1},
		"SSH":                   {"SSH-2.0-OpenSSH_9.2\r\n", sniff.Opaque},
		"SMTP":                  {"EHLO example.com\r\n", sniff.Opaque},
		"Redis":                 {"*1\r\n$4\r\nPING\r\n", sniff.Opaque},
		"Redis, inline":         {"PING\r\n", sniff.Opaque},
		"Postgres":              {"\x00\x00\x00\x08\x04\xd2\x16\x2f", sniff.Opaque},
		"a very long request":   {"BREW /" + string(bytes.Repeat([]byte("a"), 20<<10)), sniff.Unsafe},
		"a very long word":      {string(bytes.Repeat([]byte("a"), 100)), sniff.Undecided},
		"an endless word":       {string(bytes.Repeat([]byte("a"), 20<<10)), sniff.Unsafe},
		"after a space":         {" GET / HTTP/1.1\r\n", sniff.HTTP1},
		"tabs":                  {"GET\t/\tHTTP/1.1\r\n", sniff.HTTP1},
		"own method, tab":       {"BREW /pot\tHTTP/1.1\r\n", sniff.HTTP1},
		"bare carriage returns": {"GET\r/\rHTTP/1.1\r\n", sniff.HTTP1},
		"only a method":         {"GET\r\n", sniff.Opaque},
		"a method and a half":   {"GET\r", sniff.Undecided},
		"endless empty lines":   {string(bytes.Repeat([]byte("\n"), sniff.MaxHead)), sniff.Unsafe},
		"a hello that doesn't":  {string(split(bytes.Repeat([]byte{1, 0, 0x7f, 0}, 16<<10), 1)[:sniff.MaxHead]), sniff.Unsafe},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got, _ := sniff.Classify([]byte(tt.in)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestWatcherFindsHellosInAnyPieces(t *testing.T) {
	hello := named(t, "hidden.example")
	pretended := append([]byte{0x16, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc, 3, 3}, "\r\nSTARTTLS\r\n"...)
	for name, before := range map[string][]byte{
		"after words":                []byte("EHLO me\r\nSTARTTLS\r\n"),
		"after a lonely record type": {0x16},
		"in another one":             pretended,
		"in many others":             bytes.Repeat(pretended, 5),
	} {
		t.Run(name, func(t *testing.T) {
			text := append(bytes.Clone(before), hello...)
			for _, size := range []int{1, 2, 7, 100, len(text)} {
				var w sniff.Watcher
				found := false
				for rest := text; len(rest) > 0; {
					n := min(size, len(rest))
					hellos, ok := w.Next(rest[:n])
					if !ok {
						t.Fatal("gave up")
					}
					for _, h := range hellos {
						found = found || h.Name == "hidden.example"
					}
					rest = rest[n:]
				}
				if !found {
					t.Errorf("in pieces of %d: not found", size)
				}
			}
		})
	}
}

func TestWatcherGivesUpOnTooManyHellos(t *testing.T) {
	var w sniff.Watcher
	if _, ok := w.Next(bytes.Repeat([]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3}, 100)); ok {
		t.Error("went on")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(named(f, "example.com"))
	f.Add(split(named(f, "example.com"), 3))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, hello := sniff.Classify(b)
		if (kind == sniff.TLS) != (hello != nil) {
			t.Fatalf("%v with hello %v", kind, hello)
		}
		if kind == sniff.Undecided && len(b) >= sniff.MaxHead {
			t.Fatal("undecided for ever")
		}
		// What was decided stays decided whatever follows.
		if kind != sniff.Undecided {
			if later, _ := sniff.Classify(append(bytes.Clone(b), "\n rest"...)); later != kind && kind != sniff.Opaque {
				t.Fatalf("%v became %v", kind, later)
			}
		}
	})
}

func FuzzWatcher(f *testing.F) {
	f.Add(append([]byte("STARTTLS\r\n"), named(f, "example.com")...), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var w sniff.Watcher
		for len(b) > 0 {
			n := min(int(size)+1, len(b))
			if _, ok := w.Next(b[:n]); !ok {
				return
			}
			b = b[n:]
		}
	})
}

func BenchmarkWatcher(b *testing.B) {
	block := bytes.Repeat([]byte("some bytes of an upload \x16\x04 "), 2000)
	b.SetBytes(int64(len(block)))
	var w sniff.Watcher
	for b.Loop() {
		w.Next(block)
	}
}
