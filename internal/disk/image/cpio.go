package image

import (
	"bytes"
	"fmt"
	"io"
	"math"
)

// cpioWriter writes a cpio archive in the "newc" form, which the kernel unpacks
// as an initramfs: see initramfs-buffer-format in its documentation. All files
// are root's and have no time, so that equal content makes equal archives.
type cpioWriter struct {
	w       io.Writer
	written int64
	inode   int
}

// Modes of entries: a file's kind and permissions.
const (
	cpioDirectory = 0o040755
	cpioRegular   = 0o100644
)

const (
	cpioTrailer = "TRAILER!!!" // the name of the entry behind the last
	cpioBlock   = 512          // bytes; the archive is padded to a multiple
)

func (c *cpioWriter) directory(name string) error { return c.entry(name, cpioDirectory, nil) }

func (c *cpioWriter) file(name string, content []byte) error {
	return c.entry(name, cpioRegular, content)
}

// close writes the trailer. Archives may follow one another.
func (c *cpioWriter) close() error {
	if err := c.entry(cpioTrailer, 0, nil); err != nil {
		return err
	}
	return c.pad(cpioBlock)
}

func (c *cpioWriter) entry(name string, mode uint32, content []byte) error {
	if int64(len(content)) > math.MaxUint32 {
		return fmt.Errorf("archive %s: %d bytes are too many", name, len(content))
	}
	c.inode++
	const links, nameEnd = 1, "\x00"
	// inode, mode, uid, gid, links, time, size, device and rdevice as major and
	// minor, size of the name with its end, checksum: none in this form.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+len(nameEnd), 0)
	for _, part := range [][]byte{[]byte(header + name + nameEnd), content} {
		if err := c.write(part); err != nil {
			return err
		}
		if err := c.pad(4); err != nil {
			return err
		}
	}
	return nil
}

func (c *cpioWriter) pad(to int64) error {
	return c.write(bytes.Repeat([]byte{0}, int((to-c.written%to)%to)))
}

func (c *cpioWriter) write(p []byte) error {
	n, err := c.w.Write(p)
	c.written += int64(n)
	return err
}
