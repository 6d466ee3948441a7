package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// parseMemory reads an amount of memory in MiB, rounded down. Units are those
// of the official SDKs in any case of letters; a bare number is MiB. The
// server checks the range. "" is 0.
func parseMemory(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	m := regexp.MustCompile(`^([0-9]{1,12}(?:\.[0-9]{1,6})?)([a-zA-Z]*)$`).FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf(`--memory: %q is not an amount like "2GiB" or "1280MiB"`, s)
	}
	unit, ok := map[string]float64{
		"": 1 << 20, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 1e3, "mb": 1e6, "gb": 1e9,
	}[strings.ToLower(m[2])]
	if !ok {
		return 0, fmt.Errorf("--memory: unknown unit %q; known are GiB, MiB, KiB, GB, MB and kB", m[2])
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("--memory: %w", err)
	}
	mib := int(n * unit / (1 << 20))
	if mib == 0 {
		return 0, fmt.Errorf("--memory: %q is less than 1 MiB", s)
	}
	return mib, nil
}
