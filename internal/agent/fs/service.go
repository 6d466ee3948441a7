package fs

import (
	"golang.org/x/sync/semaphore"
)

// Config says for whom and where the files are served. Zero fields but UserID,
// GroupID and Home have defaults.
type Config struct {
	UserID, GroupID uint32   // as whom calls act; without root they act as the process
	Groups          []uint32 // supplementary groups
	Home            string   // absolute; relative paths start here
	TempDir         string   // where makeTempDir and makeTempFile go; default /tmp
	Workers         int      // threads that file calls may hold; default 16
	MaxHandles      int      // open files per connection; default 4096
}

func (c Config) withDefaults() Config {
	if c.TempDir == "" {
		c.TempDir = "/tmp"
	}
	if c.Workers <= 0 {
		c.Workers = 16
	}
	if c.MaxHandles <= 0 {
		c.MaxHandles = 4096
	}
	return c
}

// Service is the file API of one agent. Its methods may be called
// concurrently.
type Service struct {
	cfg         Config
	pool        *pool
	streamFiles *semaphore.Weighted // files open while their content is awaited
}

// New returns a service. It starts no thread before the first call.
func New(cfg Config) *Service {
	learnUmask()
	cfg = cfg.withDefaults()
	id := identity{uid: cfg.UserID, gid: cfg.GroupID, groups: cfg.Groups}
	return &Service{
		cfg:         cfg,
		pool:        newPool(id, cfg.Workers),
		streamFiles: semaphore.NewWeighted(maxStreamFiles),
	}
}

// Close ends the workers. Calls that are made afterwards fail.
func (s *Service) Close() { s.pool.close() }
