package config

import (
	"slices"
	"strings"
)

// Setting is one entry of the table of settings.
type Setting struct {
	Key  string // in the file; flag and variable are derived from it
	Doc  string // what it does, its unit and what empty means
	bind func(*Server) value
}

// Flag is the name of its flag, without the dashes.
func (s Setting) Flag() string { return strings.ReplaceAll(s.Key, "_", "-") }

// Env is the name of its environment variable.
func (s Setting) Env() string { return "ATOLL_" + strings.ToUpper(s.Key) }

// Default is its default in text form.
func (s Setting) Default() string {
	d := Default()
	return s.bind(&d).String()
}

// Settings returns the table of settings, in the order of docs/settings.md. In
// text form, lists are separated by commas and maps are lists of name=value.
func Settings() []Setting {
	return slices.Concat(serverSettings(), limitSettings(), lifetimeSettings(), networkSettings(), logSettings())
}

func serverSettings() []Setting {
	return []Setting{
		{"data_dir", "directory for everything that survives a restart: database, token, images, sandboxes", func(s *Server) value { return text(&s.DataDir) }},
		{"listen", "address and port of the API; port 0 picks a free one", func(s *Server) value { return text(&s.Listen) }},
		{"url", "base URL by which clients reach the server, without a slash at the end; empty derives it from listen", func(s *Server) value { return text(&s.URL) }},
		{"region", "region names that the server answers to, the default one first; three lower-case letters each", func(s *Server) value { return list(&s.Regions) }},
		{"bin_dir", "directory of atoll-shim, atoll-agent and runsc; empty is the directory of this program", func(s *Server) value { return text(&s.BinDir) }},
		{"image_dir", "directory of images; empty is images in the data directory", func(s *Server) value { return text(&s.ImageDir) }},
		{"image", "image that sandboxes boot from", func(s *Server) value { return text(&s.Image) }},
		{"isolation", "how sandboxes are isolated: gvisor; microvm, which without KVM is several times slower; auto is microvm where this host has KVM and a trial at the server's start works, else gvisor", func(s *Server) value { return text(&s.Isolation) }},
		{"qemu", "path of qemu-system-x86_64, below /usr, for microvm; empty looks for it in PATH", func(s *Server) value { return text(&s.QEMU) }},
	}
}

func limitSettings() []Setting {
	return []Setting{
		{"memory_min", "least memory of a sandbox, MiB", func(s *Server) value { return number(&s.Limits.MemoryMinMiB) }},
		{"memory_max", "most memory of a sandbox, MiB", func(s *Server) value { return number(&s.Limits.MemoryMaxMiB) }},
		{"memory_default", "memory of a sandbox that asks for none, MiB", func(s *Server) value { return number(&s.Limits.MemoryDefaultMiB) }},
		{"cpus", "virtual CPUs of a sandbox", func(s *Server) value { return number(&s.Limits.CPUs) }},
		{"disk", "what a sandbox may write to its disk, MiB", func(s *Server) value { return number(&s.Limits.DiskMiB) }},
		{"pids", "host processes and threads of a sandbox", func(s *Server) value { return number(&s.Limits.PIDs) }},
		{"max_labels", "labels of a sandbox", func(s *Server) value { return number(&s.Limits.Labels) }},
		{"max_sandboxes_per_org", "running sandboxes of one organisation; 0 is unlimited", func(s *Server) value { return number(&s.Limits.SandboxesPerOrg) }},
		{"max_sandboxes", "running sandboxes of the server", func(s *Server) value { return number(&s.Limits.Sandboxes) }},
		{"max_starts", "sandboxes that start at the same time, others wait; 0 is twice the number of cores", func(s *Server) value { return number(&s.Limits.Starts) }},
		{"spares", "sandboxes of the default size that are kept started ahead, so that the next creation takes milliseconds; each costs about 20 MiB, a microVM about 70", func(s *Server) value { return number(&s.Limits.Spares) }},
		{"max_forks", "children that one fork may make at once", func(s *Server) value { return number(&s.Limits.Forks) }},
		{"min_free_memory", "available memory of the host below which no sandbox starts, and which is left free by what a fork copies and by what comes back from disk, MiB; 0 switches the check off", func(s *Server) value { return number(&s.Limits.FreeMemoryMiB) }},
	}
}

func lifetimeSettings() []Setting {
	return []Setting{
		{"max_extend", "how far one extension may move a sandbox's end, counted from now", func(s *Server) value { return duration(&s.MaxExtend) }},
		{"max_lifetime", "longest lifetime that a sandbox may ask for when it is created; 0 is unlimited", func(s *Server) value { return duration(&s.MaxLifetime) }},
		{"max_paused", "how long a sandbox may stay paused, in memory or on disk, until it is stopped, which loses all that it holds; 0 is unlimited", func(s *Server) value { return duration(&s.MaxPaused) }},
		{"session_grace", "how long a sandbox with the lifetime \"session\" waits for a client after the server restarted, after it was resumed without one, and as a fork", func(s *Server) value { return duration(&s.SessionGrace) }},
		{"stop_timeout", "how long the server waits for each of its parts when it stops", func(s *Server) value { return duration(&s.StopTimeout) }},
		{"stop_sandboxes", "yes to stop all sandboxes with the server; no lets them go on until it is back", func(s *Server) value { return yesNo(&s.StopSandboxes) }},
		{"client_dead_after", "a client that shows no sign of life for so long is disconnected", func(s *Server) value { return duration(&s.ClientDeadAfter) }},
		{"stopped_retention", "how long stopped sandboxes stay in the database", func(s *Server) value { return duration(&s.StoppedRetention) }},
	}
}

func networkSettings() []Setting {
	return []Setting{
		{"net_exceptions", "addresses or prefixes that sandboxes may reach although they are refused otherwise (private, loopback, …)", func(s *Server) value { return prefixes(&s.Network.Exceptions) }},
		{"resolvers", "DNS servers to ask, as address or address:port; empty is the host's", func(s *Server) value { return addrPorts(&s.Network.Resolvers) }},
		{"host_overrides", "JSON file of names with fixed addresses and of addresses that are reached elsewhere: {\"names\": …, \"dial\": …}", func(s *Server) value { return text(&s.Network.HostOverrides) }},
		{"net_ceiling", "what the allow-list of no sandbox may exceed: hosts as in allow_net; ORG=host is for one organisation, whose own hosts take the place of the general ones and must lie within them; empty is no limit", func(s *Server) value { return list(&s.Network.Ceiling) }},
		{"net_strict", "yes to read inside all TLS of sandboxes, so that a connection's host is known by its requests; no does so only for hosts of secrets", func(s *Server) value { return yesNo(&s.Network.Strict) }},
		{"net_proxy", "URL of a proxy that all connections of sandboxes go through: http or https, socks5h (both are told names, which nobody resolves here) or socks5 (is told addresses); sandboxes have no UDP then; keep one with a password in the file or the environment, a flag is seen by everybody on the host", func(s *Server) value { return text((*string)(&s.Network.Proxy)) }},
		{"net_audit_max", "size at which the network audit of a sandbox is rotated, MiB; one older file is kept; 0 keeps no audit", func(s *Server) value { return number(&s.Network.AuditMaxMiB) }},
		{"extra_roots", "PEM file of certificates that are added to the trust store of every sandbox, and that the servers reached with its secrets may have, too; empty is those that were added to this host, \"none\" is none", func(s *Server) value { return text(&s.Network.ExtraRoots) }},
	}
}

func logSettings() []Setting {
	return []Setting{
		{"log_level", "debug, info, warn or error", func(s *Server) value { return text(&s.Log.Level) }},
		{"log_format", "text or json", func(s *Server) value { return text(&s.Log.Format) }},
		{"audit_max", "size at which the audit log is rotated, MiB; one older file is kept", func(s *Server) value { return number(&s.AuditMaxMiB) }},
	}
}
