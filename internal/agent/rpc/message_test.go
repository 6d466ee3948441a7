package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/atollhq/atoll/api"
)

func TestScannerAgreesWithEncodingJSON(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `[1,2]`, `{"a":1,"b":[true,false,null]}`, ` { "a" : -0.5e+10 } `, `"\u00e9\n"`, `0`, `-1`, `1.5`,
		``, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[,1]`, `01`, `-`, `1.`, `.5`, `1e`, `+1`, `"`, `"\`, `"\x"`,
		`"\u12"`, `"\u12g4"`, "\"a\nb\"", "\"\x00\"", `tru`, `nul`, `nulll`, `{} {}`, `{"a":1}x`, `"aaaaaaaaaaaaaaaaaaaaaaaa\"b"`,
		`{'a':1}`, `{"a":1 "b":2}`, "\"1234567\x1f\"", "\"12345678\x1f\"", `"é日本"`,
	} {
		s := scanner{b: []byte(text)}
		got := s.value(0) && s.peek() == 0 && s.i == len(text)
		if want := json.Valid([]byte(text)); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestScannerBoundsDepth(t *testing.T) {
	text := strings.Repeat("[", 1_000_000)
	if s := (scanner{b: []byte(text)}); s.value(0) {
		t.Error("endless nesting is accepted")
	}
}

func TestUntilSpecial(t *testing.T) {
	for n := range 40 {
		for _, special := range []byte{'"', '\\', 0, 0x1f, '\n'} {
			for _, filler := range []byte{'a', 0x20, 0x21, 0x23, 0x5b, 0x5d, 0x80, 0xff, 0xa2} {
				b := append(bytes.Repeat([]byte{filler}, n), special)
				b = append(b, bytes.Repeat([]byte{filler}, 20)...)
				if got := untilSpecial(b); got != n {
					t.Fatalf("%q: got %d, want %d", b, got, n)
				}
			}
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"spawn","params":{"command":"x","args":["a"],"env":{"a":"b"}}}`))
	f.Add([]byte(`{"method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"AAAA"}}`))
	f.Add([]byte(`{"\u0069d":null,"method":"\u0061","params":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, bad := parseMessage(text)
		valid := json.Valid(text) && !deep(text)
		if (bad == nil || bad.Code != api.RPCParseError) && !valid && !deep(text) {
			t.Fatalf("%q is taken for JSON", text)
		}
		if bad != nil && bad.Code == api.RPCParseError && valid && !loneSurrogateName(text) {
			t.Fatalf("%q is not taken for JSON", text)
		}
		if bad != nil || m.id == nil {
			return
		}
		out, err := appendResult(nil, m.id, m.method)
		if err != nil || !json.Valid(out) {
			t.Fatalf("answer %q, %v", out, err)
		}
	})
}

// deep says whether text might nest deeper than the scanner goes.
func deep(text []byte) bool {
	return bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) > maxDepth
}

// loneSurrogateName: a name that is no Unicode text is refused.
func loneSurrogateName(text []byte) bool {
	return bytes.Contains(text, []byte(`\u`)) || !json.Valid(bytes.ToValidUTF8(text, nil))
}

func FuzzDecodeBytes(f *testing.F) {
	f.Add([]byte("hello"), true)
	f.Fuzz(func(t *testing.T, data []byte, padded bool) {
		enc := base64.StdEncoding
		if !padded {
			enc = base64.RawStdEncoding
		}
		got, err := decodeBytes([]byte(`"` + enc.EncodeToString(data) + `"`))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes become %d, %v", len(data), len(got), err)
		}
		_, _ = decodeBytes(append(append([]byte{'"'}, data...), '"')) // must not panic
	})
}

func TestDecodeBytesInBlocks(t *testing.T) {
	for _, n := range []int{12287, 12288, 12289, 24576, 100_000} {
		data := bytes.Repeat([]byte("\x01\xfe\x7f"), n/3+1)[:n]
		got, err := decodeBytes([]byte(`"` + base64.StdEncoding.EncodeToString(data) + `"`))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes become %d, %v", n, len(got), err)
		}
	}
	for _, bad := range []string{`"A"`, `"AA=A"`, `"A A="`, `5`, `"` + strings.Repeat("A", 16384) + `#"`} {
		if _, err := decodeBytes([]byte(bad)); err == nil {
			t.Errorf("%.20s is taken for base64", bad)
		}
	}
	if got, err := decodeBytes([]byte(`"\u0041\/8="`)); err != nil || len(got) != 2 {
		t.Errorf("escaped: %v, %v", got, err)
	}
}

func TestBase64(t *testing.T) {
	data := make([]byte, 300)
	for i := range data {
		data[i] = byte(i*i + i>>3)
	}
	for n := range data {
		want := base64.StdEncoding.EncodeToString(data[:n])
		if got := string(appendBase64([]byte("x"), data[:n])); got != "x"+want {
			t.Fatalf("%d bytes: got %s, want %s", n, got, want)
		}
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			if got, err := decodeInPlace([]byte(enc.EncodeToString(data[:n]))); err != nil || !bytes.Equal(got, data[:n]) {
				t.Fatalf("%d bytes: got %x, %v", n, got, err)
			}
		}
	}
	for place := range 20 {
		for c := range 256 {
			text := bytes.Repeat([]byte("A"), 20)
			text[place] = byte(c)
			_, err := decodeInPlace(bytes.Clone(text))
			if want := strings.IndexByte(alphabet, byte(c)) >= 0 || c == '=' && place == 19; (err == nil) != want {
				t.Fatalf("%q: %v", text, err)
			}
		}
	}
}

func TestInvalidUTF8BecomesReplacement(t *testing.T) {
	for _, v := range []any{"a\xffb", map[string]string{"k": "a\xffb"}, []api.DirEntry{{Name: "a\xffb"}}} {
		out, err := appendValue(nil, v)
		if err != nil || !json.Valid(out) || !bytes.Contains(out, []byte("a\ufffdb")) {
			t.Errorf("%s, %v", out, err)
		}
	}
}

func FuzzAppendText(f *testing.F) {
	f.Add("a\"b\\c\n\x00\x7fé\xff日")
	f.Fuzz(func(t *testing.T, text string) {
		out := appendText(nil, text)
		var back string
		if err := json.Unmarshal(out, &back); err != nil || back != strings.ToValidUTF8(text, "\ufffd") && utf8.ValidString(text) {
			t.Fatalf("%q becomes %s, %v", text, out, err)
		}
		if got, ok := decodeText(out); !ok || got != back {
			t.Fatalf("%s is decoded as %q", out, got)
		}
	})
}

func BenchmarkParseWriteFile(b *testing.B) {
	content := base64.StdEncoding.EncodeToString(make([]byte, 100_000_000))
	text := []byte(`{"jsonrpc":"2.0","id":7,"method":"writeFile","params":{"path":"/x","content":"` + content + `"}}`)
	fields := fieldsOfType[api.WriteFileParams]()
	b.SetBytes(int64(len(text)))
	work := make([]byte, len(text))
	for b.Loop() {
		b.StopTimer()
		copy(work, text)
		b.StartTimer()
		m, bad := parseMessage(work)
		if bad != nil {
			b.Fatal(bad)
		}
		var p api.WriteFileParams
		if issues := decodeInto(fields, m.params, &p); issues != nil || len(*p.Content) != 100_000_000 {
			b.Fatal(issues)
		}
	}
}

func BenchmarkParseEnqueue(b *testing.B) {
	for _, n := range []int{64, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			text := appendEnqueue(nil, 12345678901, make([]byte, n))
			work := make([]byte, len(text))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				copy(work, text)
				m, bad := parseMessage(work)
				if bad != nil {
					b.Fatal(bad)
				}
				if data, err := decodeBytes(m.params.get("data")); err != nil || len(data) != n {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendEnqueue(b *testing.B) {
	for _, n := range []int{64, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			data := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				o := newOutBuffer()
				o.b = appendEnqueue(o.b, 12345678901, data)
				o.free()
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	text := strings.Repeat("some text with a line end\n", 1_000_000)
	b.SetBytes(int64(len(text)))
	dst := make([]byte, 0, len(text)*2)
	for b.Loop() {
		dst = appendText(dst[:0], text)
	}
}
