package audit

import (
	"fmt"
	"os"
)

// rotating is a file that becomes the older one when it is full. It belongs
// to one goroutine.
type rotating struct {
	path, older string
	max         int64
	file        *os.File // nil after a failure
	size        int64
}

func (w *rotating) open() error {
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open network audit: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("open network audit: %w", err)
	}
	w.file, w.size = file, info.Size()
	return nil
}

// write appends a line in one piece, or nothing.
func (w *rotating) write(line []byte) error {
	if w.file != nil && w.size > 0 && w.size+int64(len(line)) > w.max {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	if w.file == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if _, err := w.file.Write(line); err != nil {
		_ = w.file.Truncate(w.size)
		return err
	}
	w.size += int64(len(line))
	return nil
}

func (w *rotating) rotate() error {
	if err := os.Rename(w.path, w.older); err != nil {
		return err
	}
	return w.close()
}

func (w *rotating) close() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file = nil
	return file.Close()
}
