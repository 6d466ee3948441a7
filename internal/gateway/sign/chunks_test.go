package sign

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

func dialOnce(c net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return c, nil }
}

// The chunked upload of S3's documentation: 65 KiB of the letter a.
const (
	seed   = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	first  = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
	second = "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
	third  = "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"
)

// The same with a trailer.
const (
	seedTrailer  = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
	firstTrailer = "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"
	lastChunk    = "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"
	ofTrailer    = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
	middle       = "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"
)

func chunkText(size int, signature string) string {
	return strconv.FormatInt(int64(size), 16) + ";chunk-signature=" + signature + "\r\n" + strings.Repeat("a", size) + "\r\n"
}

var (
	documentedBody = chunkText(65536, first) + chunkText(1024, second) + chunkText(0, third)
	trailerBody    = chunkText(65536, firstTrailer) + chunkText(1024, middle) + "0;chunk-signature=" + lastChunk + "\r\n" +
		"x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:" + ofTrailer + "\r\n\r\n"
)

// upload is the documented request with another body.
func upload(t testing.TB, body string) *http.Request {
	return uploadOf(t, body, payloadChunks, seed, "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class")
}

func uploadTrailer(t testing.TB, body string) *http.Request {
	r := uploadOf(t, body, payloadChunksTrailer, seedTrailer, "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer")
	r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32c")
	return r
}

func uploadOf(t testing.TB, body, payload, signature, signed string) *http.Request {
	r := request(t, "PUT /examplebucket/chunkObject.txt", "Host: s3.amazonaws.com", "X-Amz-Date: "+day,
		"X-Amz-Storage-Class: REDUCED_REDUNDANCY", "Content-Encoding: aws-chunked", "X-Amz-Decoded-Content-Length: 66560",
		"X-Amz-Content-Sha256: "+payload, authorization(documented, "20130524/us-east-1/s3", signed, signature))
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), 66824
	return r
}

func TestPublishedChunks(t *testing.T) {
	for name, r := range map[string]*http.Request{"plain": upload(t, documentedBody), "trailer": uploadTrailer(t, trailerBody)} {
		t.Run(name, func(t *testing.T) {
			wantSeed, want := signatureOf(r), documentedBody
			if name == "trailer" {
				want = trailerBody
			}
			there, back := signer(day, documented, lasting), signer(day, lasting, documented)
			mustSign(t, there, r)
			mustSign(t, back, r)
			r.Body = struct {
				io.Reader
				io.Closer
			}{iotest.OneByteReader(r.Body), r.Body}
			got, err := io.ReadAll(r.Body)
			if err != nil || signatureOf(r) != wantSeed || string(got) != want {
				t.Errorf("%v; seed %s, body of %d bytes, want %s, %d", err, signatureOf(r), len(got), wantSeed, len(want))
			}
			_, _ = r.Body.Close(), r.Body.Close()
			if a, b := there.budget.held.Load(), back.budget.held.Load(); a != 0 || b != 0 {
				t.Errorf("%d and %d bytes are held after the end", a, b)
			}
		})
	}
}

// TestTrailerAfterEmptyLine: one client writes it so.
func TestTrailerAfterEmptyLine(t *testing.T) {
	body := strings.Replace(trailerBody, "==\r\n", "==\n\r\n", 1)
	r := uploadTrailer(t, body)
	mustSign(t, signer(day, documented, lasting), r)
	if got, err := io.ReadAll(r.Body); err != nil || len(got) != len(body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestChunksRefused(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(documentedBody, old, new, 1) }
	changeTrailer := func(old, new string) string { return strings.Replace(trailerBody, old, new, 1) }
	for _, tt := range []struct {
		name, body string
		trailer    bool
		verified   int // bytes that may pass before the refusal
		want       string
	}{
		{"other data", change("aaa\r\n", "aab\r\n"), false, 0, CodeChunkMismatch},
		{"other signature", change(second, first), false, 65626, CodeChunkMismatch},
		{"chunks in another order", chunkText(1024, second) + chunkText(65536, first), false, 0, CodeChunkMismatch},
		{"last chunk missing", chunkText(65536, first), false, 65626, CodeChunk},
		{"cut in a chunk", documentedBody[:1000], false, 0, CodeChunk},
		{"cut in a head", documentedBody[:20], false, 0, CodeChunk},
		{"empty", "", false, 0, CodeChunk},
		{"more after the end", documentedBody + "x", false, len(documentedBody), CodeChunk},
		{"no line break after data", change("aaa\r\n", "aaa\n\n"), false, 0, CodeChunk},
		{"bare line break", change("\r\n", "\n"), false, 0, CodeChunk},
		{"negative size", change("10000;", "-10000;"), false, 0, CodeChunk},
		{"size with a prefix", change("10000;", "0x10000;"), false, 0, CodeChunk},
		{"size too large", change("10000;", "1000001;"), false, 0, CodeChunkSize},
		{"size overflows", change("10000;", "ffffffffffffffffffff;"), false, 0, CodeChunk},
		{"no signature", change(";chunk-signature="+first, ""), false, 0, CodeChunk},
		{"another extension", change(";chunk", ";a=b;chunk"), false, 0, CodeChunk},
		{"long head", change("10000;", strings.Repeat("0", maxChunkHead)+"10000;"), false, 0, CodeChunk},
		{"endless head", strings.Repeat("0", 1<<20), false, 0, CodeChunk},

		{"other trailer", changeTrailer("sOO8", "sOO9"), true, 66738, CodeChunkMismatch},
		{"trailer without signature", changeTrailer(trailerMark, "x-other"), true, 66738, CodeChunk},
		{"trailer cut", strings.TrimSuffix(trailerBody, "\r\n"), true, 66738, CodeChunk},
		{"trailer of no lines", changeTrailer("x-amz-checksum-crc32c:", ""), true, 66738, CodeChunk},
		{"endless trailer", changeTrailer(trailerMark, strings.Repeat("a:b\r\n", maxTrailer)), true, 66738, CodeChunk},
		{"trailer with a long line", changeTrailer(trailerMark, strings.Repeat("a", maxTrailerLine)), true, 66738, CodeChunk},
		{"more after the trailer", trailerBody + "x", true, len(trailerBody), CodeChunk},
		{"trailer goes on", strings.TrimSuffix(trailerBody, "\r\n") + "a:b\r\n\r\n", true, 66738, CodeChunk},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := upload(t, tt.body)
			if tt.trailer {
				r = uploadTrailer(t, tt.body)
			}
			mustSign(t, signer(day, documented, temporary), r)
			got, err := io.ReadAll(r.Body)
			if code(err) != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if len(got) != tt.verified {
				t.Errorf("%d bytes passed, want %d", len(got), tt.verified)
			}
			if _, again := r.Body.Read(make([]byte, 1)); again != err {
				t.Errorf("the next read says %v", again)
			}
		})
	}
}

func TestChunksShareABudget(t *testing.T) {
	a := signer(day, documented, temporary)
	a.budget.held.Store(maxHeld - 65536)
	r := upload(t, documentedBody)
	mustSign(t, a, r)
	if _, err := io.ReadAll(r.Body); code(err) != CodeBusy {
		t.Errorf("error %v", err)
	}
	_ = r.Body.Close()
	if held := a.budget.held.Load(); held != maxHeld-65536 {
		t.Errorf("%d bytes are held", held)
	}
}

func TestNoReadAfterClose(t *testing.T) {
	a := signer(day, documented, temporary)
	r := upload(t, documentedBody)
	mustSign(t, a, r)
	_ = r.Body.Close()
	if _, err := r.Body.Read(make([]byte, 1)); err == nil || a.budget.held.Load() != 0 {
		t.Errorf("error %v, %d bytes held", err, a.budget.held.Load())
	}
}

// TestRefusalEndsTheTransfer: what is refused in the middle of a body reaches
// the caller as such, and the server never gets the rest.
func TestRefusalEndsTheTransfer(t *testing.T) {
	r := upload(t, strings.Replace(documentedBody, second, first, 1))
	mustSign(t, signer(day, documented, lasting), r)
	sent, err := roundTrip(r)
	if code(err) != CodeChunkMismatch {
		t.Errorf("error %v", err)
	}
	_, body, _ := strings.Cut(sent, "\r\n\r\n")
	if n := len(body); n > 65626 {
		t.Errorf("the server got %d bytes", n)
	}
	if strings.Contains(sent, documented.id) || !strings.Contains(sent, lasting.id) {
		t.Errorf("the server got other credentials")
	}
}

// FuzzChunks: whatever passes was signed by the placeholder key.
func FuzzChunks(f *testing.F) {
	small := func(sizes ...int) []byte {
		r := upload(f, "")
		c, _ := parseAuthorization(r.Header.Get("Authorization"))
		c.at, _ = signingTime(r.Header)
		sum := chain{c, signingKey(documented.secret, c), seed}
		var b strings.Builder
		for _, size := range sizes {
			b.WriteString(chunkText(size, sum.chunk(hexHash(bytes.Repeat([]byte("a"), size)))))
		}
		return []byte(b.String())
	}
	valid := small(3, 2, 0)
	f.Add(valid, false)
	f.Add(small(1), false)
	f.Add([]byte("0;chunk-signature="+lastChunk+"\r\nx-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:"+ofTrailer+"\r\n\r\n"), true)
	f.Add([]byte("ffffff;chunk-signature="+first+"\r\n"), false)
	f.Fuzz(func(t *testing.T, body []byte, trailer bool) {
		r := upload(t, string(body))
		if trailer {
			r = uploadTrailer(t, string(body))
		}
		a := signer(day, documented, temporary)
		mustSign(t, a, r)
		got, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err == nil && (len(got) != len(body) || !bytes.HasPrefix(body, []byte("0;")) && !bytes.Equal(body, valid)) {
			t.Fatalf("%q passed as %q", body, got)
		}
		if err != nil && !strings.HasPrefix(code(err), "SIGN_") {
			t.Fatalf("error without a code: %v", err)
		}
		if held := a.budget.held.Load(); held != 0 {
			t.Fatalf("%d bytes held", held)
		}
	})
}

func BenchmarkChunks(b *testing.B) {
	const size, count = 64 << 10, 160
	r := upload(b, "")
	c, _ := parseAuthorization(r.Header.Get("Authorization"))
	c.at, _ = signingTime(r.Header)
	sum := chain{c, signingKey(documented.secret, c), seed}
	data := hexHash(bytes.Repeat([]byte("a"), size))
	var text strings.Builder
	for range count {
		text.WriteString(chunkText(size, sum.chunk(data)))
	}
	text.WriteString(chunkText(0, sum.chunk(hexHash(nil))))
	b.SetBytes(count * size)
	a := signer(day, documented, temporary)
	for b.Loop() {
		r := upload(b, text.String())
		if _, err := a.Sign(r); err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Fatal(err)
		}
		_ = r.Body.Close()
	}
}

func BenchmarkRequest(b *testing.B) {
	a := signer(day, documented, temporary)
	for b.Loop() {
		if _, err := a.Sign(publishedRequest(b, "S3 GET object")); err != nil {
			b.Fatal(err)
		}
	}
}
