package sandbox

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
)

// This file checks the parts of a configuration that this version understands
// and can't grant yet. They are validated like the rest, so that a mistake is
// called a mistake, and then refused by name: ignoring a volume would be worse
// than refusing it.

func checkLater(cfg api.SandboxConfig, l Limits) error {
	checks := []func() (field string, asked bool, err error){
		func() (string, bool, error) { asked, err := asksRoot(cfg.Root); return "root", asked, err },
		func() (string, bool, error) { asked, err := asksVolumes(cfg.Volumes); return "volumes", asked, err },
		func() (string, bool, error) { return "ssh", cfg.SSH != nil && *cfg.SSH, nil },
		func() (string, bool, error) { asked, err := asksPort(cfg.Port); return "port", asked, err },
	}
	for _, check := range checks {
		field, asked, err := check()
		if err != nil {
			return err
		}
		if asked {
			return errLater(field)
		}
	}
	return checkIsolation(cfg.Isolation, l)
}

func errLater(field string) error {
	return errs.New(errs.Unsupported, CodeNotSupported, "the field %q is not supported yet by this version: leave it out", field)
}

func checkIsolation(want string, l Limits) error {
	if want == "" || want == "auto" || slices.Contains(l.Isolations, want) {
		return nil
	}
	return errs.New(errs.Unsupported, "UNSUPPORTED_ISOLATION", "this server can't isolate by %q: use auto or %s", clip(want), strings.Join(l.Isolations, ", "))
}

// absent reports whether a raw field is missing, null or, of either kind,
// empty.
func absent(raw json.RawMessage) bool {
	s := strings.TrimSpace(string(raw))
	return s == "" || s == "null"
}

// asksRoot reads {"volume": "…"} or the bare name.
func asksRoot(raw json.RawMessage) (bool, error) {
	if absent(raw) {
		return false, nil
	}
	var name string
	if json.Unmarshal(raw, &name) == nil && name != "" {
		return true, nil
	}
	var root struct {
		Volume   string `json:"volume"`
		Snapshot string `json:"snapshot"`
	}
	if json.Unmarshal(raw, &root) != nil || (root.Volume == "") == (root.Snapshot == "") {
		return false, invalid(`the field "root" must name a volume or a snapshot: {"volume": "…"}`)
	}
	return true, nil
}

// asksVolumes reads the JavaScript SDK's list of {path, volume} or the Python
// SDK's map from path to volume.
func asksVolumes(raw json.RawMessage) (bool, error) {
	if absent(raw) {
		return false, nil
	}
	var byPath map[string]string
	if json.Unmarshal(raw, &byPath) != nil {
		var list []struct {
			Path   string `json:"path"`
			Volume string `json:"volume"`
		}
		if json.Unmarshal(raw, &list) != nil {
			return false, invalid(`the field "volumes" must map mount paths to volumes`)
		}
		byPath = map[string]string{}
		for _, v := range list {
			byPath[v.Path] = v.Volume
		}
	}
	for path, volume := range byPath {
		if !strings.HasPrefix(path, "/") || volume == "" {
			return false, invalid(`the field "volumes" must map absolute mount paths to volumes`)
		}
	}
	return len(byPath) > 0, nil
}

func asksPort(port *int) (bool, error) {
	if port == nil {
		return false, nil
	}
	if *port < 1 || *port > 65535 {
		return false, invalid(`the field "port" must lie between 1 and 65535`)
	}
	return true, nil
}
