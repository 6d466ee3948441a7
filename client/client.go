package client

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Options configures a Client. Empty fields are taken from the environment.
type Options struct {
	// Endpoint is the server's base URL, for example http://127.0.0.1:8080.
	// Default: ATOLL_ENDPOINT, then DENO_SANDBOX_ENDPOINT for sandboxes and
	// DENO_DEPLOY_ENDPOINT for listings.
	Endpoint string
	// Token is the bearer token. Default: ATOLL_TOKEN, then DENO_DEPLOY_TOKEN.
	Token string
	// Org is the organisation to act in; personal tokens need it. Default:
	// DENO_DEPLOY_ORG.
	Org string
	// HTTPClient makes all requests, WebSockets included, so it should have no
	// overall Timeout. Default: a client of its own with TCP keep-alive, which
	// is how a vanished server is noticed.
	HTTPClient *http.Client
}

// Missing settings.
var (
	ErrNoEndpoint = errors.New("no server is configured: set ATOLL_ENDPOINT or DENO_SANDBOX_ENDPOINT")
	ErrNoToken    = errors.New("no access token is configured: set ATOLL_TOKEN or DENO_DEPLOY_TOKEN")
)

// Client talks to one server. It holds no connection of its own.
type Client struct {
	// Sandboxes creates, finds and ends sandboxes.
	Sandboxes *Sandboxes

	sandboxURL *url.URL // serves /api/v3
	apiURL     *url.URL // serves /api/v2
	token      string
	org        string
	http       *http.Client
}

// New returns a client. It makes no request.
func New(o Options) (*Client, error) {
	shared := cmp.Or(o.Endpoint, os.Getenv("ATOLL_ENDPOINT"))
	sandboxEndpoint := cmp.Or(shared, os.Getenv("DENO_SANDBOX_ENDPOINT"), os.Getenv("DENO_DEPLOY_ENDPOINT"))
	sandboxURL, err := parseEndpoint(sandboxEndpoint)
	if err != nil {
		return nil, err
	}
	apiURL, err := parseEndpoint(cmp.Or(shared, os.Getenv("DENO_DEPLOY_ENDPOINT"), sandboxEndpoint))
	if err != nil {
		return nil, err
	}
	c := &Client{
		sandboxURL: sandboxURL,
		apiURL:     apiURL,
		token:      cmp.Or(o.Token, os.Getenv("ATOLL_TOKEN"), os.Getenv("DENO_DEPLOY_TOKEN")),
		org:        cmp.Or(o.Org, os.Getenv("DENO_DEPLOY_ORG")),
		http:       o.HTTPClient,
	}
	if c.token == "" {
		return nil, ErrNoToken
	}
	if c.http == nil {
		c.http = newHTTPClient()
	}
	c.Sandboxes = &Sandboxes{client: c}
	return c, nil
}

func parseEndpoint(s string) (*url.URL, error) {
	if s == "" {
		return nil, ErrNoEndpoint
	}
	u, err := url.Parse(strings.TrimRight(s, "/"))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, &EndpointError{Endpoint: s}
	}
	return u, nil
}

// EndpointError says that a configured endpoint is not a base URL.
type EndpointError struct{ Endpoint string }

func (e *EndpointError) Error() string {
	return "the endpoint " + e.Endpoint + " is not a URL like http://127.0.0.1:8080"
}

// newHTTPClient has no overall timeout, because WebSockets live in it; the
// steps up to a response are bounded by the callers' contexts.
func newHTTPClient() *http.Client {
	dialer := &net.Dialer{
		Timeout: 15 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4,
		},
	}
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 4,
	}}
}

func (c *Client) header() http.Header {
	h := http.Header{}
	h.Set("Authorization", "Bearer "+c.token)
	if c.org != "" {
		h.Set("X-Deno-Org", c.org)
	}
	return h
}
