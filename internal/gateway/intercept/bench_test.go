package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/secret"
)

const benchSize = 64 << 20 // bytes of one body

// BenchmarkOpened moves bodies and small requests through an opened
// connection, with a secret in a header and redaction on. Both ends are in a
// process of their own: cpu-s/GB and cpu-us/op are what opening alone costs,
// with the system calls for it. As in the shim, it is told to use one
// processor with -cpu 1.
func BenchmarkOpened(b *testing.B) {
	ends := startEnds(b)
	f := newFrontOf(b, ends.Addr, ends.Authority)
	set, err := secret.New(map[string]secret.Spec{"KEY": {Hosts: []string{f.up.String()}, Value: "a-value-of-a-usual-length-0123456789"}})
	if err != nil {
		b.Fatal(err)
	}
	f.to.SetSecrets(set)
	v := visit{Addr: f.listener.Addr().String(), Token: set.Env()["KEY"]}
	for _, kind := range []struct {
		name, method string
		size         int
	}{{"download", http.MethodGet, benchSize}, {"upload", http.MethodPut, benchSize}, {"small", http.MethodGet, 100}} {
		for _, v.HTTP2 = range []bool{false, true} {
			v.Method, v.Size = kind.method, kind.size
			b.Run(fmt.Sprintf("%s/http%d", kind.name, map[bool]int{false: 1, true: 2}[v.HTTP2]), func(b *testing.B) {
				ends.do(b, v) // connects
				before := processorTime(b)
				for b.Loop() {
					ends.do(b, v)
				}
				used := processorTime(b) - before
				if v.Size < benchSize {
					b.ReportMetric(used.Seconds()*1e6/float64(b.N), "cpu-us/op")
					return
				}
				b.SetBytes(benchSize)
				b.ReportMetric(used.Seconds()/(float64(b.N)*benchSize/1e9), "cpu-s/GB")
			})
		}
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// visit is one request of the client, on a connection that is kept.
type visit struct {
	Addr, Token, Method string
	HTTP2               bool
	Size                int // of the body, in either direction
}

// ends are the process with the server and the client.
type ends struct {
	Addr      netip.AddrPort
	Authority string // of the server's certificate

	told    *json.Encoder
	answers *json.Decoder
}

const endsVariable = "ATOLL_TEST_ENDS"

func startEnds(b *testing.B) *ends {
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run", "^TestEnds$")
	cmd.Env = append(os.Environ(), endsVariable+"=1")
	cmd.Stderr, cmd.WaitDelay = os.Stderr, time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	e := &ends{told: json.NewEncoder(in), answers: json.NewDecoder(out)}
	if err := e.answers.Decode(e); err != nil {
		b.Fatal(err)
	}
	return e
}

// do has one request made.
func (e *ends) do(b *testing.B, v visit) {
	if err := e.told.Encode(v); err != nil {
		b.Fatal(err)
	}
	var failed string
	if err := e.answers.Decode(&failed); err != nil || failed != "" {
		b.Fatal(err, failed)
	}
}

// TestEnds is the process with the server and the client, until its standard
// input ends.
func TestEnds(t *testing.T) {
	if os.Getenv(endsVariable) == "" {
		t.Skip("for BenchmarkOpened")
	}
	told, answer := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	var e ends
	e.Addr, e.Authority = serveTLS(t, http.HandlerFunc(serveBodies))
	_ = answer.Encode(e)
	clients := map[bool]*http.Transport{false: client(false), true: client(true)}
	for {
		var v visit
		if told.Decode(&v) != nil {
			return
		}
		failed := ""
		if err := v.make(t.Context(), clients[v.HTTP2]); err != nil {
			failed = err.Error()
		}
		_ = answer.Encode(failed)
	}
}

func serveBodies(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
		_, _ = fmt.Fprint(w, n)
		return
	}
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	block := make([]byte, 1<<20)
	for ; n > 0; n -= len(block) {
		_, _ = w.Write(block[:min(n, len(block))])
	}
}

func client(http2 bool) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: p, DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10}
}

// make makes the request and checks how much of which body came.
func (v *visit) make(ctx context.Context, via *http.Transport) error {
	var body io.Reader
	if v.Method == http.MethodPut {
		body = io.LimitReader(zeros{}, int64(v.Size))
	}
	r, err := http.NewRequestWithContext(ctx, v.Method, fmt.Sprintf("https://%s/?n=%d", v.Addr, v.Size), body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+v.Token)
	if body != nil {
		r.ContentLength = int64(v.Size)
	}
	resp, err := via.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	n := int64(0)
	if body != nil {
		_, err = io.Copy(&answer, resp.Body)
		n, _ = strconv.ParseInt(answer.String(), 10, 64)
	} else {
		n, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
	}
	if err != nil || resp.StatusCode != http.StatusOK || n != int64(v.Size) {
		return fmt.Errorf("%s, %d bytes: %w", resp.Status, n, err)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
