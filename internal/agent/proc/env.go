package proc

import (
	"maps"
	"strings"
	"sync"

	"github.com/atollhq/atoll/internal/agent/rpc"
)

// DefaultPath is the initial PATH.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Env is the environment that all processes of the sandbox start with. Its
// methods may be called concurrently.
type Env struct {
	mu   sync.RWMutex
	vars map[string]string
}

func newEnv(cfg Config) *Env {
	vars := map[string]string{
		"PATH":    DefaultPath,
		"HOME":    cfg.Home,
		"USER":    cfg.User,
		"LOGNAME": cfg.User,
		"SHELL":   "/bin/bash",
		"LANG":    "C.UTF-8",
	}
	maps.Copy(vars, cfg.Env)
	return &Env{vars: vars}
}

// Get returns a variable.
func (e *Env) Get(key string) (string, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	v, ok := e.vars[key]
	return v, ok
}

// Set changes a variable for processes that start from now on.
func (e *Env) Set(key, value string) error {
	if err := checkVariable(key, value); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vars[key] = value
	return nil
}

// AddMissing sets variables that are not set yet, for processes that start
// from now on.
func (e *Env) AddMissing(vars map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, value := range vars {
		if _, set := e.vars[key]; !set {
			e.vars[key] = value
		}
	}
}

// Delete removes a variable; it is no error when there is none.
func (e *Env) Delete(key string) error {
	if err := checkVariable(key, ""); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.vars, key)
	return nil
}

// All returns a copy.
func (e *Env) All() map[string]string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return maps.Clone(e.vars)
}

// checkVariable refuses what the kernel couldn't pass on.
func checkVariable(key, value string) error {
	switch {
	case key == "":
		return rpc.NewError("TypeError", "EINVAL", "Key is an empty string.")
	case strings.ContainsAny(key, "=\x00"):
		return rpc.NewError("TypeError", "EINVAL", "Key contains invalid characters: %q", key)
	case strings.Contains(value, "\x00"):
		return rpc.NewError("TypeError", "EINVAL", "Value contains invalid characters: %q", value)
	}
	return nil
}

// listOf writes variables in the form that a process is started with.
func listOf(vars map[string]string) []string {
	list := make([]string, 0, len(vars))
	for k, v := range vars {
		list = append(list, k+"="+v)
	}
	return list
}
