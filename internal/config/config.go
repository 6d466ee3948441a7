// Package config holds the settings of the server.
//
// A setting has one name in three spellings: the key in the TOML file
// (`max_sandboxes`), the flag (`--max-sandboxes`) and the environment variable
// (ATOLL_MAX_SANDBOXES). Flags win over the environment, the environment over
// the file, the file over the default. Unknown keys are refused, and Validate
// reports every problem at once. The table in settings.go is the only list of
// settings; documentation, flags and file all come from it.
package config

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/layout"
)

// Isolation values.
const (
	IsolationAuto    = "auto"
	IsolationGvisor  = "gvisor"
	IsolationMicrovm = "microvm"
)

// NoRoots as Network.ExtraRoots adds no certificates to any sandbox.
const NoRoots = "none"

// Server is the configuration of `atoll serve`.
type Server struct {
	DataDir string
	Listen  string
	URL     string   // how clients reach the server; empty is derived from Listen
	Regions []string // the first is the default

	BinDir    string // empty is the directory of the running program
	ImageDir  string // empty is DataDir's own
	Image     string
	Isolation string
	QEMU      string // path; empty looks for it in PATH

	Limits           Limits
	MaxExtend        time.Duration
	MaxLifetime      time.Duration // 0 is unlimited
	MaxPaused        time.Duration // 0 is unlimited
	SessionGrace     time.Duration
	StopTimeout      time.Duration
	StopSandboxes    bool // when the server stops
	ClientDeadAfter  time.Duration
	StoppedRetention time.Duration

	Network Network
	Log     Log

	AuditMaxMiB int
}

// Limits bound what sandboxes may take.
type Limits struct {
	MemoryMinMiB     int
	MemoryMaxMiB     int
	MemoryDefaultMiB int
	CPUs             int
	DiskMiB          int
	PIDs             int
	Labels           int
	SandboxesPerOrg  int // 0 is unlimited
	Sandboxes        int
	Starts           int // at the same time; 0 is twice the cores
	Spares           int // kept started ahead
	Forks            int // children of one fork
	FreeMemoryMiB    int // of the host, below which nothing starts, is forked or comes back from disk
}

// Network is what the gateway of every sandbox is told.
type Network struct {
	Exceptions    []netip.Prefix
	Resolvers     []netip.AddrPort
	HostOverrides string // path of a JSON file, see package upstream
	ExtraRoots    string // path of a PEM file; empty is the host's own, NoRoots is none

	Ceiling     []string // what no sandbox's allow-list exceeds: entries of allow-lists, or ORG=entry for one organisation
	Strict      bool     // TLS is opened for every host
	Proxy       Proxy    // what connections go through; empty is none
	AuditMaxMiB int      // of one sandbox's audit file; 0 keeps none
}

// Proxy is the URL of an upstream proxy. It may hold a password: it shows
// itself only when it is converted to a string.
type Proxy string

// Format implements fmt.Formatter.
func (p Proxy) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, p.shown()) }

// LogValue implements slog.LogValuer.
func (p Proxy) LogValue() slog.Value { return slog.StringValue(p.shown()) }

func (p Proxy) shown() string {
	if p == "" {
		return ""
	}
	return "(hidden)"
}

// Ceilings splits the ceiling into the general entries and those of single
// organisations, by the name that the operator gave.
func (n Network) Ceilings() (general []string, orgs map[string][]string) {
	orgs = map[string][]string{}
	for _, item := range n.Ceiling {
		org, entry, named := strings.Cut(item, "=")
		if named {
			orgs[org] = append(orgs[org], entry)
		} else {
			general = append(general, item)
		}
	}
	return general, orgs
}

// Log says how the server logs.
type Log struct {
	Level  string
	Format string
}

// Default returns the settings of a server that was told nothing.
func Default() Server {
	return Server{
		DataDir:          "/var/lib/atoll",
		Listen:           "127.0.0.1:8080",
		Regions:          []string{"ord"},
		Image:            "builtin:debian-13",
		Isolation:        IsolationAuto,
		Limits:           defaultLimits(),
		MaxExtend:        api.MaxExtendMinutes * time.Minute,
		SessionGrace:     time.Minute,
		StopTimeout:      30 * time.Second,
		ClientDeadAfter:  time.Minute,
		StoppedRetention: 24 * time.Hour,
		Network:          Network{AuditMaxMiB: 8},
		Log:              Log{Level: "info", Format: "text"},
		AuditMaxMiB:      64,
	}
}

func defaultLimits() Limits {
	return Limits{
		MemoryMinMiB:     api.MinMemoryMiB,
		MemoryMaxMiB:     api.MaxMemoryMiB,
		MemoryDefaultMiB: api.DefaultMemoryMiB,
		CPUs:             api.DefaultCPUs,
		DiskMiB:          api.DefaultDiskBytes >> 20,
		PIDs:             4096,
		Labels:           api.MaxLabels,
		Sandboxes:        1000,
		FreeMemoryMiB:    512,
		Spares:           2,
		Forks:            api.DefaultMaxForks,
	}
}

// Data names the files of the data directory.
func (s Server) Data() layout.Data { return layout.Data{Dir: s.DataDir} }

// ImageFiles names the files of the configured image. The prefix "builtin:"
// says who makes an image and is no part of its file name.
func (s Server) ImageFiles() layout.Image {
	dir := s.ImageDir
	if dir == "" {
		dir = s.Data().Images()
	}
	return layout.Image{Dir: dir, Name: strings.TrimPrefix(s.Image, "builtin:")}
}

// StartLimit is how many sandboxes may start at the same time.
func (l Limits) StartLimit() int {
	if l.Starts > 0 {
		return l.Starts
	}
	return 2 * runtime.NumCPU()
}
