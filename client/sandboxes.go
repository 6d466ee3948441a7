package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/api"
)

// Sandboxes creates, finds and ends sandboxes.
type Sandboxes struct{ client *Client }

// CreateOptions describes a sandbox to create. The zero value asks for the
// server's defaults and a session lifetime.
type CreateOptions struct {
	// Timeout is the lifetime; it is rounded up to whole seconds. Zero means
	// "session": the sandbox ends when this connection does.
	Timeout   time.Duration
	MemoryMiB int // 0: the server's default
	Labels    map[string]string
	Env       map[string]string
	Region    string
	Isolation string    // "", "auto", "gvisor" or "microvm"
	AllowNet  *[]string // hosts that may be reached, and no others; nil: no restriction
	// Secrets are, by the name of the variable that holds the placeholder,
	// values that the sandbox uses without seeing them.
	Secrets map[string]api.Secret
	// IdlePause is after how long without activity the sandbox is paused; it is
	// rounded up to whole seconds, and 0 is never.
	IdlePause       time.Duration
	IdlePauseToDisk bool
	Root            string
	Volumes         map[string]string // mount path → volume
}

func (o CreateOptions) config() api.SandboxConfig {
	c := api.SandboxConfig{
		Timeout:   "session",
		Labels:    o.Labels,
		Env:       o.Env,
		AllowNet:  o.AllowNet,
		Secrets:   o.Secrets,
		Region:    o.Region,
		Isolation: o.Isolation,
	}
	if o.Timeout > 0 {
		c.Timeout = seconds(o.Timeout)
	}
	if o.IdlePause > 0 {
		c.IdlePause, c.IdlePauseToDisk = seconds(o.IdlePause), &o.IdlePauseToDisk
	}
	if o.MemoryMiB != 0 {
		c.MemoryMB = &o.MemoryMiB
	}
	if o.Root != "" {
		c.Root, _ = json.Marshal(map[string]string{"volume": o.Root})
	}
	if len(o.Volumes) > 0 {
		c.Volumes, _ = json.Marshal(o.Volumes)
	}
	return c
}

// seconds writes a length of time as the API reads it, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
}

// Create makes a sandbox and connects to it as its primary client. ctx bounds
// the creation only.
func (s *Sandboxes) Create(ctx context.Context, o CreateOptions) (*Sandbox, error) {
	config, err := json.Marshal(o.config())
	if err != nil {
		return nil, fmt.Errorf("encode the sandbox's configuration: %w", err)
	}
	header := s.client.header()
	header.Set(api.HeaderConfig, base64.StdEncoding.EncodeToString(config))
	return s.dial(ctx, "/api/v3/sandboxes/create", header, "")
}

// Connect opens a further connection to a running sandbox, and resumes one
// that is paused. ctx bounds the
// handshake only.
func (s *Sandboxes) Connect(ctx context.Context, id string) (*Sandbox, error) {
	return s.dial(ctx, sandboxPath(id)+"/connect", s.client.header(), id)
}

func sandboxPath(id string) string { return "/api/v3/sandbox/" + url.PathEscape(id) }

func (s *Sandboxes) dial(ctx context.Context, path string, header http.Header, id string) (*Sandbox, error) {
	ws, resp, err := websocket.Dial(ctx, s.client.sandboxURL.String()+path, &websocket.DialOptions{
		HTTPClient: s.client.http,
		HTTPHeader: header,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			defer resp.Body.Close()
			return nil, apiErrorOf(resp)
		}
		return nil, fmt.Errorf("connect to %s: %w", s.client.sandboxURL, err)
	}
	if got := resp.Header.Get(api.HeaderSandboxID); got != "" {
		id = got
	}
	return newSandbox(s, id, resp.Header.Get(api.HeaderTraceID), newConn(ws)), nil
}

// ListOptions filters List.
type ListOptions struct {
	Labels map[string]string // all must match
}

// List returns the organisation's sandboxes, running and recently stopped.
func (s *Sandboxes) List(ctx context.Context, o ListOptions) ([]api.Sandbox, error) {
	query := url.Values{}
	for k, v := range o.Labels {
		query.Set("labels["+k+"]", v)
	}
	target := s.client.apiURL.String() + "/api/v2/sandboxes"
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var out []api.Sandbox
	err := s.client.do(ctx, http.MethodGet, target, nil, &out)
	return out, err
}

// Get returns one sandbox, running or recently stopped. An unknown id is an
// *APIError with status 404.
func (s *Sandboxes) Get(ctx context.Context, id string) (*api.Sandbox, error) {
	var out api.Sandbox
	err := s.client.do(ctx, http.MethodGet, s.url(id), nil, &out)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Kill ends a sandbox at once.
func (s *Sandboxes) Kill(ctx context.Context, id string) error {
	return s.client.do(ctx, http.MethodDelete, s.url(id), nil, nil)
}

// Extend moves the end of a sandbox's lifetime to d from now, at most 30
// minutes later than it was, and returns the time that was granted.
func (s *Sandboxes) Extend(ctx context.Context, id string, d time.Duration) (time.Time, error) {
	stopAt := time.Now().Add(d).UnixMilli()
	var granted api.PatchSandboxResult
	err := s.client.do(ctx, http.MethodPatch, s.url(id),
		api.PatchSandbox{StopAtMS: &stopAt}, &granted)
	return time.UnixMilli(granted.StopAtMS).UTC(), err
}

// maxBody bounds what a JSON answer may take, in bytes.
const maxBody = 32 << 20

// do makes one JSON request. body and out may be nil.
func (c *Client) do(ctx context.Context, method, target string, body, out any) error {
	resp, err := c.send(ctx, method, target, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// send makes a request, whose body may be nil. The answer is one of success;
// the caller closes its body.
func (c *Client) send(ctx context.Context, method, target string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header = c.header()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach the server: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, apiErrorOf(resp)
	}
	return resp, nil
}

// apiErrorOf reads a failed response. A body that is not the API's error
// object, from a proxy for instance, becomes the message.
func apiErrorOf(resp *http.Response) *APIError {
	text, readErr := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &APIError{Status: resp.StatusCode, TraceID: resp.Header.Get(api.HeaderTraceID)}
	var body api.Error
	if json.Unmarshal(text, &body) == nil && body.Code != "" {
		e.Code, e.Message = body.Code, body.Message
		return e
	}
	e.Code = "UNKNOWN_ERROR"
	e.Message = fmt.Sprintf("the server answered %s", resp.Status)
	if msg := bytes.TrimSpace(text); len(msg) > 0 && len(msg) < 200 {
		e.Message += ": " + string(msg)
	}
	if readErr != nil && !errors.Is(readErr, io.ErrUnexpectedEOF) {
		e.Message += ": " + readErr.Error()
	}
	return e
}
