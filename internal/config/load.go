package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// DefaultFile is read when no file is named; it may be missing.
const DefaultFile = "/etc/atoll/atoll.toml"

// Sources says where settings come from. Zero fields are sources that say
// nothing.
type Sources struct {
	File    string                           // TOML file; empty is DefaultFile if it exists
	Env     func(name string) (string, bool) // os.LookupEnv
	Flags   map[string]string                // values of the flags that were given, by Setting.Key
	NoFiles bool                             // don't look for DefaultFile
}

// Load reads all sources over the defaults and validates the result. The
// error holds every problem found, one per line.
func Load(src Sources) (Server, error) {
	cfg := Default()
	var problems []error
	file, err := readFile(src)
	if err != nil {
		problems = append(problems, err)
	}
	problems = append(problems, apply(&cfg, file, src)...)
	problems = append(problems, unknown(file, src.Flags)...)
	problems = append(problems, cfg.problems()...)
	return cfg, errors.Join(problems...)
}

// apply sets each setting from the strongest source that names it.
func apply(cfg *Server, file map[string]string, src Sources) []error {
	var problems []error
	for _, s := range Settings() {
		text, where, ok := lookUp(s, file, src)
		if !ok {
			continue
		}
		if err := s.bind(cfg).Set(text); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", where, err))
		}
	}
	return problems
}

func lookUp(s Setting, file map[string]string, src Sources) (text, where string, ok bool) {
	if text, ok = src.Flags[s.Key]; ok {
		return text, "--" + s.Flag(), true
	}
	if src.Env != nil {
		if text, ok = src.Env(s.Env()); ok {
			return text, s.Env(), true
		}
	}
	text, ok = file[s.Key]
	return text, s.Key, ok
}

func unknown(file, flags map[string]string) []error {
	known := map[string]bool{}
	for _, s := range Settings() {
		known[s.Key] = true
	}
	var problems []error
	for _, given := range []map[string]string{file, flags} {
		for _, key := range slices.Sorted(maps.Keys(given)) {
			if !known[key] {
				problems = append(problems, fmt.Errorf("%s: there is no such setting", key))
			}
		}
	}
	return problems
}

// readFile returns the file's settings in text form.
func readFile(src Sources) (map[string]string, error) {
	path := src.File
	if path == "" {
		if src.NoFiles {
			return nil, nil
		}
		path = DefaultFile
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && src.File == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return parseFile(path, raw)
}

func parseFile(path string, raw []byte) (map[string]string, error) {
	var tree map[string]any
	if err := toml.Unmarshal(raw, &tree); err != nil {
		return nil, fmt.Errorf("read settings from %s: %w", path, err)
	}
	out := map[string]string{}
	for key, v := range tree {
		text, err := flatten(v)
		if err != nil {
			return nil, fmt.Errorf("read settings from %s: %s: %w", path, key, err)
		}
		out[key] = text
	}
	return out, nil
}

// flatten turns a TOML value into the text form of a setting.
func flatten(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case bool:
		return strconv.FormatBool(v), nil
	case []any:
		return flattenList(v)
	}
	return "", fmt.Errorf("a value of type %T is not expected here", v)
}

func flattenList(items []any) (string, error) {
	var out []string
	for _, it := range items {
		text, ok := it.(string)
		if !ok {
			return "", errors.New("a list must hold strings")
		}
		out = append(out, text)
	}
	return strings.Join(out, ","), nil
}
