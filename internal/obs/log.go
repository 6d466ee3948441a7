// Package obs is how an operator sees what the server does: logs, metrics and
// the audit record. None of them ever holds a secret, a token, or what clients
// and sandboxes say to each other.
package obs

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger returns a logger with a level (debug, info, warn, error) and a
// format (text, json).
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format: %q is none of text, json", format)
}
