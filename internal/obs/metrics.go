package obs

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the server's measurements. Labels come from closed lists only,
// so that no client can make them grow.
type Metrics struct {
	registry *prometheus.Registry
	live     prometheus.Gauge
	created  *prometheus.CounterVec
	seconds  prometheus.Histogram
	stopped  *prometheus.CounterVec
	powers   *prometheus.CounterVec
	resumes  prometheus.Histogram
	clients  prometheus.Gauge
	calls    *prometheus.CounterVec
	messages *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	requests *prometheus.CounterVec
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		live:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "atoll_sandboxes", Help: "Sandboxes that are starting, running or stopping."}),
		created:  counter("atoll_sandbox_creates_total", "Attempts to create a sandbox, by outcome.", "outcome"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "atoll_sandbox_create_seconds", Help: "Time from the call to a running sandbox, waiting included.",
			Buckets: []float64{.05, .1, .15, .2, .3, .5, 1, 2, 5, 10, 30, 60, 120},
		}),
		stopped: counter("atoll_sandbox_stops_total", "Sandboxes that stopped, by reason.", "reason"),
		powers:  counter("atoll_sandbox_power_changes_total", "Machines that came to stand still (paused, suspended) or went on (running).", "to"),
		resumes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "atoll_sandbox_resume_seconds", Help: "Time until a paused machine ran again, waiting for a turn included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}),
		clients:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "atoll_clients", Help: "Connections between clients and sandboxes."}),
		calls:    counter("atoll_rpc_calls_total", "Calls and notifications from clients, by method.", "method"),
		messages: counter("atoll_rpc_messages_total", "Messages between clients and sandboxes; in is from the client.", "direction"),
		bytes:    counter("atoll_rpc_bytes_total", "Bytes in those messages.", "direction"),
		requests: counter("atoll_http_requests_total", "HTTP requests by route and status class.", "route", "class"),
	}
	m.registry.MustRegister(m.live, m.created, m.seconds, m.stopped, m.powers, m.resumes, m.clients, m.calls, m.messages, m.bytes, m.requests,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// SandboxCreated counts one attempt and, when it succeeded, its time.
func (m *Metrics) SandboxCreated(outcome string, took time.Duration) {
	m.created.WithLabelValues(outcome).Inc()
	if outcome == "ok" {
		m.seconds.Observe(took.Seconds())
	}
}

// SandboxStopped counts one end.
func (m *Metrics) SandboxStopped(reason string) { m.stopped.WithLabelValues(reason).Inc() }

// PowerChanged counts one machine that stands still or runs again, and how
// long the latter took.
func (m *Metrics) PowerChanged(power string, took time.Duration) {
	m.powers.WithLabelValues(power).Inc()
	if power == "running" {
		m.resumes.Observe(took.Seconds())
	}
}

// SandboxesLive sets how many there are.
func (m *Metrics) SandboxesLive(n int) { m.live.Set(float64(n)) }

// Request counts one HTTP request.
func (m *Metrics) Request(route string, status int) {
	m.requests.WithLabelValues(route, string(rune('0'+status/100))+"xx").Inc()
}

// ClientConnected counts one connection more; the result counts it less.
func (m *Metrics) ClientConnected() (disconnected func()) {
	m.clients.Inc()
	return m.clients.Dec
}

// Call counts one call. The method must be from a closed list.
func (m *Metrics) Call(method string) { m.calls.WithLabelValues(method).Inc() }

// Traffic is the pair of counters of one direction.
type Traffic struct{ messages, bytes prometheus.Counter }

// Traffic returns the counters of "in" or "out".
func (m *Metrics) Traffic(direction string) Traffic {
	return Traffic{m.messages.WithLabelValues(direction), m.bytes.WithLabelValues(direction)}
}

// Message counts one message.
func (t Traffic) Message(bytes int64) {
	t.messages.Inc()
	t.bytes.Add(float64(bytes))
}
