package shim

import "io"

// CappedLog is a log's writer that falls silent when Left bytes are written.
// It is meant for a handler that serialises its writes, as those of log/slog
// do.
type CappedLog struct {
	To   io.Writer
	Left int
}

const cappedNotice = "… the log has reached its limit\n"

// Write drops what does not fit, and says so once. It never fails for it: the
// program must not care.
func (c *CappedLog) Write(p []byte) (int, error) {
	switch {
	case c.Left < 0:
		return len(p), nil
	case len(p) > c.Left:
		c.Left = -1
		_, err := io.WriteString(c.To, cappedNotice)
		return len(p), err
	}
	c.Left -= len(p)
	return c.To.Write(p)
}
