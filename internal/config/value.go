package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// value reads and prints one setting in text form.
type value struct {
	set func(string) error
	get func() string
}

func (v value) Set(s string) error { return v.set(s) }
func (v value) String() string     { return v.get() }

func text(p *string) value {
	return value{
		set: func(s string) error { *p = s; return nil },
		get: func() string { return *p },
	}
}

func number(p *int) value {
	return value{
		set: func(s string) error {
			n, err := strconv.Atoi(strings.TrimSpace(s))
			if err != nil {
				return fmt.Errorf("%q is not a whole number", s)
			}
			*p = n
			return nil
		},
		get: func() string { return strconv.Itoa(*p) },
	}
}

func duration(p *time.Duration) value {
	return value{
		set: func(s string) error {
			if strings.TrimSpace(s) == "0" {
				*p = 0
				return nil
			}
			d, err := time.ParseDuration(strings.TrimSpace(s))
			if err != nil {
				return fmt.Errorf("%q is not a duration such as 90s, 30m or 24h", s)
			}
			*p = d
			return nil
		},
		get: func() string { return p.String() },
	}
}

func list(p *[]string) value {
	return value{
		set: func(s string) error { *p = split(s); return nil },
		get: func() string { return strings.Join(*p, ",") },
	}
}

func prefixes(p *[]netip.Prefix) value {
	return value{
		set: func(s string) error { return parseAll(p, s, parsePrefix) },
		get: func() string { return join(*p) },
	}
}

func addrPorts(p *[]netip.AddrPort) value {
	return value{
		set: func(s string) error { return parseAll(p, s, parseResolver) },
		get: func() string { return join(*p) },
	}
}

func yesNo(p *bool) value {
	return value{
		set: func(s string) error {
			switch strings.ToLower(strings.TrimSpace(s)) {
			case "yes", "true", "1":
				*p = true
			case "no", "false", "0":
				*p = false
			default:
				return fmt.Errorf("%q is neither yes nor no", s)
			}
			return nil
		},
		get: func() string {
			if *p {
				return "yes"
			}
			return "no"
		},
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is neither an address nor a prefix such as 10.0.0.0/8", s)
	}
	return p.Masked(), nil
}

func parseResolver(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("%q is not the address of a resolver", s)
	}
	return ap, nil
}

func parseAll[T any](p *[]T, s string, parse func(string) (T, error)) error {
	var out []T
	for _, item := range split(s) {
		v, err := parse(item)
		if err != nil {
			return err
		}
		out = append(out, v)
	}
	*p = out
	return nil
}

func join[T fmt.Stringer](items []T) string {
	var out []string
	for _, it := range items {
		out = append(out, it.String())
	}
	return strings.Join(out, ",")
}

func split(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
