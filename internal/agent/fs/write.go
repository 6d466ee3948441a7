package fs

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
)

const (
	// maxStreamFiles bounds the files that are open while their content is
	// awaited. Beyond it, the beginning of the content is awaited first.
	maxStreamFiles = 512
	// maxHead is how much that beginning has.
	maxHead = 64 << 10
)

// content is a stream of data from the client.
type content interface {
	io.Reader
	// Cancel tells the client that the rest is not wanted.
	Cancel(reason error)
}

// writeFlags maps the options of writeFile and writeTextFile.
func writeFlags(o *api.WriteOptions) (flags int, mode uint32) {
	if o == nil {
		o = &api.WriteOptions{}
	}
	flags = unix.O_WRONLY
	switch {
	case set(o.CreateNew):
		flags |= unix.O_CREAT | unix.O_EXCL
	case !unset(o.Create):
		flags |= unix.O_CREAT
	}
	if set(o.Append) {
		flags |= unix.O_APPEND
	} else if !set(o.CreateNew) {
		flags |= unix.O_TRUNC
	}
	if o.Mode != nil {
		return flags, *o.Mode
	}
	return flags, 0o666
}

// writeFile writes data in one job, unless the file has to be waited for.
func (s *Service) writeFile(ctx context.Context, path string, o *api.WriteOptions, data []byte) error {
	flags, mode := writeFlags(o)
	var waiting *file
	err := s.pool.do(ctx, func() error {
		f, err := s.openNow(path, flags, mode)
		if err != nil {
			return err
		}
		if f.polled {
			waiting = f
			return nil
		}
		return writeAndClose(f, o, data)
	})
	if is(err, unix.ENXIO) { // perhaps a pipe without a reader
		waiting, err = s.open(ctx, path, flags, mode)
	}
	if err == nil && waiting != nil {
		_, err = waiting.write(ctx, data)
		err = errors.Join(err, waiting.Close())
	}
	return failed(err, "writefile", path)
}

func writeAndClose(f *file, o *api.WriteOptions, data []byte) error {
	err := applyMode(f, o)
	if err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

// applyMode gives the file exactly the mode that was asked for: Deno applies
// it to files that exist, too, and without the umask.
func applyMode(f *file, o *api.WriteOptions) error {
	if o == nil || o.Mode == nil || !f.regular {
		return nil
	}
	return f.control(func(fd int) error { return unix.Fchmod(fd, *o.Mode&0o7777) })
}

// writeStream writes what in yields. What has arrived before a failure stays
// written.
func (s *Service) writeStream(ctx context.Context, path string, o *api.WriteOptions, in content) error {
	stop := context.AfterFunc(ctx, func() { in.Cancel(context.Cause(ctx)) })
	defer stop()
	err := failed(s.copyStream(ctx, path, o, in), "writefile", path)
	if err != nil {
		in.Cancel(remote(err))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// copyStream opens the file at once while there are few of them. Otherwise it
// looks at the beginning of the content first: of thousands of small files
// that arrive at once, most are then complete and open only for a moment.
func (s *Service) copyStream(ctx context.Context, path string, o *api.WriteOptions, in content) error {
	var head []byte
	if s.streamFiles.TryAcquire(1) {
		defer s.streamFiles.Release(1)
	} else {
		var err error
		if head, err = io.ReadAll(io.LimitReader(in, maxHead)); err != nil {
			return err
		}
		if len(head) < maxHead {
			return s.writeFile(ctx, path, o, head)
		}
	}
	flags, mode := writeFlags(o)
	f, err := s.open(ctx, path, flags, mode)
	if err != nil {
		return err
	}
	err = s.pool.do(ctx, func() error { return applyMode(f, o) })
	if err == nil {
		err = pump(ctx, f, head, in)
	}
	return errors.Join(err, f.Close())
}

// pump writes head and then in, piece by piece as it arrives.
func pump(ctx context.Context, f *file, head []byte, in io.Reader) error {
	w := fileWriter{ctx: ctx, f: f}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := io.Copy(w, in)
	return err
}
