package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/atollhq/atoll/internal/layout"
)

var (
	regionName = regexp.MustCompile(`^[a-z]{3}$`)
	imageName  = regexp.MustCompile(`^(builtin:)?[a-z0-9][a-z0-9._-]{0,63}$`)
)

// Validate returns every problem of the settings, joined, or nil.
func (s Server) Validate() error { return errors.Join(s.problems()...) }

// checklist collects problems.
type checklist []error

func (c *checklist) require(ok bool, key, format string, args ...any) {
	if !ok {
		*c = append(*c, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
}

func (s Server) problems() []error {
	var c checklist
	s.checkServer(&c)
	s.Limits.check(&c)
	s.checkTimes(&c)
	s.Network.check(&c)
	c.require(slices.Contains([]string{"debug", "info", "warn", "error"}, s.Log.Level), "log_level", "%q is none of debug, info, warn, error", s.Log.Level)
	c.require(slices.Contains([]string{"text", "json"}, s.Log.Format), "log_format", "%q is none of text, json", s.Log.Format)
	c.require(s.AuditMaxMiB >= 1, "audit_max", "must be at least 1 MiB")
	return c
}

// maxDataDir keeps the path of every shim's socket within what the kernel
// takes: 107 bytes (unix(7)).
var maxDataDir = 107 - len(layout.Data{}.Sandbox("sbx_ord_"+strings.Repeat("0", 20)).Socket()) - len("/")

func (s Server) checkServer(c *checklist) {
	c.require(filepath.IsAbs(s.DataDir), "data_dir", "must be an absolute path")
	c.require(len(s.DataDir) <= maxDataDir, "data_dir", "is longer than %d bytes, which leaves no room for the sockets below it", maxDataDir)
	c.require(!strings.ContainsAny(s.DataDir, ",\n"), "data_dir", "must not hold a comma or a line break")
	c.require(s.BinDir == "" || filepath.IsAbs(s.BinDir), "bin_dir", "must be an absolute path")
	c.require(s.ImageDir == "" || filepath.IsAbs(s.ImageDir), "image_dir", "must be an absolute path")
	_, _, err := net.SplitHostPort(s.Listen)
	c.require(err == nil, "listen", "%q is not of the form address:port", s.Listen)
	c.require(s.URL == "" || validURL(s.URL), "url", "%q is not an http or https URL without path", s.URL)
	c.require(len(s.Regions) > 0, "region", "at least one is needed")
	for _, r := range s.Regions {
		c.require(regionName.MatchString(r), "region", "%q is not three lower-case letters", r)
	}
	c.require(imageName.MatchString(s.Image), "image", "%q is not the name of an image", s.Image)
	c.require(slices.Contains([]string{IsolationAuto, IsolationGvisor, IsolationMicrovm}, s.Isolation), "isolation", "%q is none of auto, gvisor, microvm", s.Isolation)
	c.require(s.QEMU == "" || strings.HasPrefix(filepath.Clean(s.QEMU), "/usr/"), "qemu", "must be a path below /usr, which is all of the host that QEMU sees")
}

func validURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Path == "" && !strings.HasSuffix(s, "/")
}

func (l Limits) check(c *checklist) {
	c.require(l.MemoryMinMiB >= 64, "memory_min", "must be at least 64 MiB")
	c.require(l.MemoryMaxMiB >= l.MemoryMinMiB, "memory_max", "must not be below memory_min")
	c.require(l.MemoryDefaultMiB >= l.MemoryMinMiB && l.MemoryDefaultMiB <= l.MemoryMaxMiB, "memory_default", "must lie between memory_min and memory_max")
	c.require(l.CPUs >= 1, "cpus", "must be at least 1")
	c.require(l.DiskMiB >= 64, "disk", "must be at least 64 MiB")
	c.require(l.PIDs >= 64, "pids", "must be at least 64")
	c.require(l.Labels >= 0 && l.Labels <= 64, "max_labels", "must lie between 0 and 64")
	c.require(l.SandboxesPerOrg >= 0, "max_sandboxes_per_org", "must not be negative")
	c.require(l.Sandboxes >= 1, "max_sandboxes", "must be at least 1")
	c.require(l.Starts >= 0, "max_starts", "must not be negative")
	c.require(l.Spares >= 0, "spares", "must not be negative")
	c.require(l.Forks >= 1, "max_forks", "must be at least 1")
	c.require(l.FreeMemoryMiB >= 0, "min_free_memory", "must not be negative")
}

func (s Server) checkTimes(c *checklist) {
	c.require(s.MaxExtend > 0, "max_extend", "must be positive")
	c.require(s.MaxLifetime >= 0, "max_lifetime", "must not be negative")
	c.require(s.MaxPaused >= 0, "max_paused", "must not be negative")
	c.require(s.SessionGrace >= 0, "session_grace", "must not be negative")
	c.require(s.StopTimeout >= time.Second, "stop_timeout", "must be at least 1s")
	c.require(s.ClientDeadAfter >= 5*time.Second, "client_dead_after", "must be at least 5s")
	c.require(s.StoppedRetention >= 0, "stopped_retention", "must not be negative")
}

func (n Network) check(c *checklist) {
	if n.ExtraRoots != NoRoots {
		checkFile(c, "extra_roots", n.ExtraRoots)
	}
	checkFile(c, "host_overrides", n.HostOverrides)
	c.require(n.Proxy == "" || validProxy(string(n.Proxy)), "net_proxy", "must be of the form http://host:port, https://host:port, socks5://host:port or socks5h://host:port, with user:password@ before the host where needed, 255 bytes each at most")
	c.require(n.AuditMaxMiB >= 0, "net_audit_max", "must not be negative")
	for _, item := range n.Ceiling {
		org, entry, named := strings.Cut(item, "=")
		c.require(!named || org != "" && entry != "" && !strings.ContainsAny(org, " \t*.:/"), "net_ceiling", "%q is neither a host nor of the form ORG=host", item)
	}
}

// validProxy never shows why not: the text may hold a password.
func validProxy(s string) bool {
	u, err := url.Parse(s)
	return err == nil && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) &&
		u.Hostname() != "" && u.Port() != "" && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == "" && validUser(u.User)
}

// validUser bounds user and password, of which SOCKS5 has room for 255 bytes
// each (RFC 1929).
func validUser(user *url.Userinfo) bool {
	const most = 255
	password, _ := user.Password()
	return user == nil || user.Username() != "" && len(user.Username()) <= most && len(password) <= most
}

func checkFile(c *checklist, key, path string) {
	if path == "" {
		return
	}
	c.require(filepath.IsAbs(path), key, "must be an absolute path")
	_, err := os.Stat(path)
	c.require(err == nil, key, "%v", err)
}
