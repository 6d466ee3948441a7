package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxLine bounds a line in bytes; a File writes none that is longer.
const maxLine = 64 << 10

// Reader reads the lines of a File, oldest first, also while it is written
// to. It holds one line at a time, and belongs to one goroutine.
type Reader struct {
	current, older string // paths
	follow         bool

	file  *opened // being read; nil if there is none
	last  *opened // to be read after it; nil if there is none
	in    *bufio.Reader
	part  []byte // of a line whose end isn't there yet
	moved bool   // the file has another name now: nothing is added to it
}

// OpenReader opens a File's two files, either of which may be missing. With
// follow set, what is written later is read, too; otherwise only what is
// there now.
func OpenReader(current, older string, follow bool) (*Reader, error) {
	r := &Reader{current: current, older: older, follow: follow}
	return r, r.open(nil)
}

// Next returns the next line with its end. It is valid until the next call.
// The error is io.EOF when there is none at the moment; a Reader that follows
// may be asked again.
func (r *Reader) Next() ([]byte, error) {
	for {
		line, err := r.line()
		if !errors.Is(err, io.EOF) {
			return line, err
		}
		more, err := r.advance()
		if err != nil {
			return nil, err
		}
		if !more {
			return nil, io.EOF
		}
	}
}

// line returns a whole line of the file. One that is too long, or that a full
// disk has cut, is left out.
func (r *Reader) line() ([]byte, error) {
	if r.in == nil {
		return nil, io.EOF
	}
	if bytes.HasSuffix(r.part, []byte{'\n'}) {
		r.part = r.part[:0]
	}
	for {
		piece, err := r.in.ReadSlice('\n')
		if len(r.part) <= maxLine {
			r.part = append(r.part, piece...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return nil, err
		case len(r.part) > maxLine || !json.Valid(r.part):
			r.part = r.part[:0]
		default:
			return r.part, nil
		}
	}
}

// advance goes on to the next file, if there is one.
func (r *Reader) advance() (bool, error) {
	if r.last != nil {
		file := r.last
		r.last = nil
		r.use(file)
		return true, nil
	}
	if !r.follow {
		return false, nil
	}
	if r.file == nil {
		return r.goOn(nil)
	}
	now, err := os.Stat(r.current)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil // about to be made
	case err != nil:
		return false, fmt.Errorf("look for network audit: %w", err)
	case os.SameFile(now, r.file.info):
		return false, nil
	case !r.moved: // its end may have come after we saw it
		r.moved = true
		return true, nil
	}
	return r.goOn(r.file)
}

func (r *Reader) goOn(read *opened) (bool, error) {
	err := r.open(read)
	return err == nil && r.file != nil, err
}

// open opens what comes after the file that was read: the older file, unless
// it is that one, and the current one. In this order a rotation in between
// loses nothing.
func (r *Reader) open(read *opened) error {
	current, err := openFile(r.current)
	if err != nil {
		return err
	}
	older, err := openFile(r.older)
	if err != nil {
		current.close()
		return err
	}
	if older.same(current) || older.same(read) {
		older.close()
		older = nil
	}
	if older == nil {
		older, current = current, nil
	}
	if older != nil {
		r.last = current
		r.use(older)
	}
	return nil
}

// use begins to read a file.
func (r *Reader) use(file *opened) {
	r.file.close()
	r.file, r.moved, r.part = file, false, r.part[:0]
	var in io.Reader = file
	if !r.follow {
		in = io.LimitReader(file, file.info.Size())
	}
	r.in = bufio.NewReader(in)
}

// Close closes what is open.
func (r *Reader) Close() {
	r.file.close()
	r.last.close()
}

// opened is a file as it was when it was opened; nil is one that is missing.
type opened struct {
	*os.File
	info fs.FileInfo
}

func openFile(path string) (*opened, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read network audit: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("read network audit: %w", err)
	}
	return &opened{file, info}, nil
}

func (o *opened) same(other *opened) bool {
	return o != nil && other != nil && os.SameFile(o.info, other.info)
}

func (o *opened) close() {
	if o != nil {
		_ = o.File.Close()
	}
}
