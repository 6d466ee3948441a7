package proc

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/atollhq/atoll/internal/agent/rpc"
	"golang.org/x/sys/unix"
)

// maxSignal is the last real-time signal of Linux.
const maxSignal = 64

// signalName is a signal as a caller names it: "SIGTERM", or its number.
type signalName string

// UnmarshalJSON reads a name or a number.
func (s *signalName) UnmarshalJSON(in []byte) error {
	var name string
	if json.Unmarshal(in, &name) == nil {
		*s = signalName(name)
		return nil
	}
	var n int
	if json.Unmarshal(in, &n) != nil {
		return fmt.Errorf("a signal must be a name such as SIGTERM")
	}
	*s = signalName(strconv.Itoa(n))
	return nil
}

// aliases are names that the kernel has for the same signals.
var aliases = map[string]unix.Signal{
	"SIGIOT":  unix.SIGABRT,
	"SIGPOLL": unix.SIGIO,
	"SIGCLD":  unix.SIGCHLD,
}

// parseSignal understands a signal's name or number.
func parseSignal(name string) (unix.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n > maxSignal {
			return 0, rpc.NewError("TypeError", "EINVAL", "Invalid signal: %d", n)
		}
		return unix.Signal(n), nil
	}
	if sig, ok := aliases[name]; ok {
		return sig, nil
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, rpc.NewError("TypeError", "EINVAL", "Invalid signal: %s", name)
}

// nameOf is parseSignal's inverse.
func nameOf(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return "SIGRT" + strconv.Itoa(int(sig))
}
