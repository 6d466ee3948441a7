//go:build e2e

package egress

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// scanner looks for values, in several forms, in whatever is read.
type scanner struct {
	forms map[string][]byte // by what they are
	most  int               // bytes of the longest form
}

func newScanner(values map[string]string) *scanner {
	s := &scanner{forms: map[string][]byte{}}
	for name, value := range values {
		s.forms[name] = []byte(value)
		s.forms[name+" in hex"] = []byte(hex.EncodeToString([]byte(value)))
		s.forms[name+" in HEX"] = []byte(strings.ToUpper(hex.EncodeToString([]byte(value))))
		s.forms[name+" in UTF-16"] = wide(value, binary.LittleEndian)
		s.forms[name+" in UTF-16BE"] = wide(value, binary.BigEndian)
		for _, form := range base64s(value) { // a form that is there twice is looked for once
			s.forms[name+" in base64 as "+form] = []byte(form)
		}
	}
	for _, form := range s.forms {
		s.most = max(s.most, len(form))
	}
	return s
}

func wide(s string, order binary.AppendByteOrder) (out []byte) {
	for _, c := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, c)
	}
	return out
}

// find returns which forms are in a stream.
func (s *scanner) find(r io.Reader) (found []string, err error) {
	const piece = 4 << 20
	buf := make([]byte, 0, piece+s.most)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		for what, form := range s.forms {
			if !slices.Contains(found, what) && bytes.Contains(buf, form) {
				found = append(found, what)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return found, nil
		} else if err != nil {
			return found, err
		}
		keep := min(len(buf), s.most) // a form may go on in the next piece
		buf = buf[:copy(buf, buf[len(buf)-keep:])]
	}
}

// findIn is find for all files below a directory, without those that go
// meanwhile.
func (s *scanner) findIn(dir string) (found []string, files int, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		files++
		what, err := s.find(f)
		for _, w := range what {
			found = append(found, w+" in "+path)
		}
		return err
	})
	return found, files, err
}

// findInFiles is find for the files without a name that a process holds open:
// the guest's disk and its memory.
func (s *scanner) findInFiles(pid int) (found []string, size int64, err error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		target, _ := os.Readlink(link)
		info, serr := os.Stat(link)
		if serr != nil || !info.Mode().IsRegular() || !strings.HasSuffix(target, " (deleted)") {
			continue
		}
		f, oerr := os.Open(link)
		if oerr != nil {
			return found, size, oerr
		}
		data := &dense{file: f}
		what, ferr := s.find(data)
		_ = f.Close()
		if size += data.read; ferr != nil {
			return found, size, ferr
		}
		for _, w := range what {
			found = append(found, fmt.Sprintf("%s in %s of process %d", w, target, pid))
		}
	}
	return found, size, err
}

// dense reads a file without its holes: to read them would fill them.
type dense struct {
	file      *os.File
	at, until int64
	read      int64
}

func (d *dense) Read(b []byte) (int, error) {
	if d.at >= d.until {
		fd := int(d.file.Fd())
		begin, err := unix.Seek(fd, d.at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return 0, io.EOF
		} else if err != nil {
			return 0, err
		}
		if d.until, err = unix.Seek(fd, begin, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
		d.at = begin
	}
	n, err := d.file.ReadAt(b[:min(int64(len(b)), d.until-d.at)], d.at)
	d.at, d.read = d.at+int64(n), d.read+int64(n)
	return n, err
}

// findInMemory is find for what a process has in memory.
func (s *scanner) findInMemory(pid int) (found []string, size int64, err error) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, 0, err
	}
	defer mem.Close()
	runs, err := resident(pid)
	for _, r := range runs {
		what, _ := s.find(io.NewSectionReader(mem, r.begin, r.size)) // pages may go meanwhile
		for _, w := range what {
			found = append(found, fmt.Sprintf("%s in memory of process %d", w, pid))
		}
		size += r.size
	}
	slices.Sort(found)
	return slices.Compact(found), size, err
}

// run is a piece of a process's memory.
type run struct{ begin, size int64 }

const (
	page       = 4096
	maxMapping = 64 << 30 // bytes; larger ones are reservations
	inMemory   = 3 << 62  // in an entry of pagemap: present, or swapped out
)

// resident returns the readable memory of a process that is really there. To
// read the rest would fill it.
func resident(pid int) (runs []run, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var begin, end int64
		var access string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &begin, &end, &access); err != nil || access[0] != 'r' || end-begin > maxMapping {
			continue // the vsyscall page is too high for an int64, and holds nothing
		}
		table := make([]byte, (end-begin)/page*8)
		if _, err := pages.ReadAt(table, begin/page*8); err != nil {
			continue
		}
		runs = append(runs, present(table, begin)...)
	}
	return runs, nil
}

func present(table []byte, begin int64) (runs []run) {
	for i := int64(0); i < int64(len(table)/8); i++ {
		if binary.NativeEndian.Uint64(table[i*8:])&inMemory == 0 {
			continue
		}
		at := begin + i*page
		if last := len(runs) - 1; last >= 0 && runs[last].begin+runs[last].size == at {
			runs[last].size += page
		} else {
			runs = append(runs, run{at, page})
		}
	}
	return runs
}

// masked is a value that a guest's program can look for without ever having it
// in its arguments, environment or files.
func masked(value string) string {
	out := []byte(value)
	for i := range out {
		out[i] ^= 0x55
	}
	return base64.StdEncoding.EncodeToString(out)
}
