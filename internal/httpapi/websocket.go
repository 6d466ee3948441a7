package httpapi

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/obs"
	"github.com/atollhq/atoll/internal/relay"
	"github.com/atollhq/atoll/internal/sandbox"
)

func (a *server) createSandbox(w http.ResponseWriter, r *request) error {
	if err := checkUpgrade(r.Request); err != nil {
		return err
	}
	spec, err := a.readSpec(r)
	if err != nil {
		return err
	}
	client, err := a.Sandboxes.Create(r.Context(), r.identity.Org, spec)
	if err != nil {
		a.audit(r, "create", "", err)
		return err
	}
	a.audit(r, "create", client.ID(), nil)
	return a.attach(w, r, client)
}

// readSpec takes the configuration out of the request, which lives as long as
// the client's session: it may hold secrets.
func (a *server) readSpec(r *request) (sandbox.Spec, error) {
	defer r.Header.Del(api.HeaderConfig)
	cfg, err := sandbox.DecodeConfig(r.Header.Get(api.HeaderConfig))
	if err != nil {
		return sandbox.Spec{}, err
	}
	if cfg.Region == "" {
		cfg.Region = regionOf(r.Host, a.Limits.Regions)
	}
	return sandbox.NewSpec(cfg, a.Limits, time.Now())
}

// regionOf finds the region in a host name: the SDKs ask
// https://<region>.<base domain> when they are given a base domain.
func regionOf(host string, regions []string) string {
	label, _, _ := strings.Cut(host, ".")
	if slices.Contains(regions, label) {
		return label
	}
	return ""
}

func (a *server) connectSandbox(w http.ResponseWriter, r *request) error {
	if err := checkUpgrade(r.Request); err != nil {
		return err
	}
	client, err := a.Sandboxes.Connect(r.Context(), r.identity.Org, r.PathValue("id"))
	a.audit(r, "connect", r.PathValue("id"), err)
	if err != nil {
		return err
	}
	return a.attach(w, r, client)
}

// checkUpgrade refuses what can't become a WebSocket before anything is made
// for it.
func checkUpgrade(r *http.Request) error {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	if hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket") &&
		r.Header.Get("Sec-WebSocket-Version") == "13" && err == nil && len(key) == 16 && r.ProtoMajor == 1 {
		return nil
	}
	return errs.New(errs.Invalid, codeUpgrade, "this path takes WebSocket connections only (RFC 6455, version 13)")
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// attach connects a client to its sandbox until either ends.
func (a *server) attach(w http.ResponseWriter, r *request, client *sandbox.Client) error {
	defer client.Close()
	m := &meter{server: a, request: r, sandbox: client.ID()}
	o := relay.Options{
		MaxReceive: a.MaxMessage,
		MaxSend:    relay.MaxSendFor(r.UserAgent()),
		PingEvery:  relay.DefaultPingEvery,
		DeadAfter:  a.DeadAfter,
		Meter:      m,
		Guard:      client,
	}
	o.PingEvery = min(o.PingEvery, a.DeadAfter/3)
	stream, err := client.OpenRPC(r.Context(), link.RPCHeader{MaxMessage: int(o.MaxSend)})
	if err != nil {
		return err
	}
	w.Header().Set(api.HeaderSandboxID, client.ID())
	conn, err := relay.Accept(w, r.Request, stream, o)
	if err != nil {
		return errors.Join(errs.Wrap(err, errs.Invalid, codeUpgrade, "the connection could not be upgraded to WebSocket"), stream.Close())
	}
	defer a.Metrics.ClientConnected()()
	cause := conn.Run(client.Context(), func() relay.Ending {
		e := client.Ending()
		return relay.Ending{Code: e.Code, Text: e.Text}
	})
	m.close(cause)
	return nil
}

// meter counts one connection's messages and records its calls. Only names
// are recorded.
type meter struct {
	server  *server
	request *request
	sandbox string

	bytesIn, bytesOut, messagesIn, messagesOut atomic.Int64
}

// Received implements relay.Meter.
func (m *meter) Received(bytes int64, method string) {
	m.bytesIn.Add(bytes)
	m.messagesIn.Add(1)
	m.server.in.Message(bytes)
	if method == "" {
		return
	}
	m.server.Metrics.Call(method)
	if !strings.HasPrefix(method, "$") { // pieces of streams are no calls
		m.server.Audit.Record(m.event("rpc", obs.Event{Method: method}))
	}
}

// Sent implements relay.Meter.
func (m *meter) Sent(bytes int64) {
	m.bytesOut.Add(bytes)
	m.messagesOut.Add(1)
	m.server.out.Message(bytes)
}

func (m *meter) close(cause error) {
	m.request.log.Debug("client disconnected", "sandbox_id", m.sandbox, "cause", cause)
	m.server.Audit.Record(m.event("disconnect", obs.Event{
		Outcome:     reason(cause),
		BytesIn:     m.bytesIn.Load(),
		BytesOut:    m.bytesOut.Load(),
		MessagesIn:  m.messagesIn.Load(),
		MessagesOut: m.messagesOut.Load(),
	}))
}

func (m *meter) event(action string, e obs.Event) obs.Event {
	id := m.request.identity
	e.Action, e.Org, e.Token, e.Sandbox, e.Trace = action, id.Org, id.Token, m.sandbox, m.request.trace
	return e
}

// reason is the short form of a connection's end.
func reason(cause error) string {
	for _, known := range []error{relay.ErrDismissed, relay.ErrClientLeft, relay.ErrClientDead, relay.ErrClientFault, relay.ErrAgentLeft, relay.ErrNotReady} {
		if errors.Is(cause, known) {
			return known.Error()
		}
	}
	return "the agent broke the protocol"
}
