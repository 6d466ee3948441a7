package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// BigInt is an integer that JSON writes as a number or as a decimal string.
type BigInt int64

// UnmarshalJSON reads either form.
func (b *BigInt) UnmarshalJSON(in []byte) error {
	if len(in) >= 2 && in[0] == '"' {
		in = in[1 : len(in)-1]
	}
	n, err := strconv.ParseInt(string(in), 10, 64)
	if err != nil {
		return fmt.Errorf("%q is not an integer of at most 64 bits", in)
	}
	*b = BigInt(n)
	return nil
}

// Watch says which files a watched Deno process restarts for: those that it
// imports and, beyond them, the listed paths.
type Watch struct {
	Enabled bool
	Paths   []string
}

// UnmarshalJSON reads a boolean or a list of paths.
func (w *Watch) UnmarshalJSON(in []byte) error {
	var on bool
	if json.Unmarshal(in, &on) == nil {
		*w = Watch{Enabled: on}
		return nil
	}
	var paths []string
	if json.Unmarshal(in, &paths) != nil {
		return errors.New("watch must be a boolean or a list of paths")
	}
	*w = Watch{Enabled: true, Paths: paths}
	return nil
}

// MarshalJSON writes the form that was meant.
func (w Watch) MarshalJSON() ([]byte, error) {
	if len(w.Paths) > 0 {
		return json.Marshal(w.Paths)
	}
	return json.Marshal(w.Enabled)
}
