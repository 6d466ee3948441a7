package microvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
)

// Template describes a template on disk.
type Template struct {
	Key         string       `json:"key"` // names its directory; differs when anything in it does
	MemoryBytes int64        `json:"memoryBytes"`
	CPUs        int          `json:"cpus"`
	Accel       Acceleration `json:"acceleration"`
	Kernel      string       `json:"kernel"` // digest of the kernel's file
	Bytes       int64        `json:"bytes"`  // on disk
	Created     time.Time    `json:"created"`
	Digest      string       `json:"digest"` // of state, memory and disk, "sha256:…"
	Format      int          `json:"format"`
}

// digestTemplate is of the state, of the memory and of the blank disk, without
// their holes.
func digestTemplate(dir string, memory *os.File) (string, error) {
	state, err := os.ReadFile(filepath.Join(dir, savedState))
	if err != nil {
		return "", err
	}
	blank, err := os.Open(blankDisk(dir))
	if err != nil {
		return "", err
	}
	defer func() { _ = blank.Close() }()
	hash := sha256.New()
	hash.Write(state)
	for _, file := range []*os.File{memory, blank} {
		if err := digestContent(hash, file); err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

// digestUnit is how many bytes of zeros count as nothing.
const digestUnit = 256 << 10

// digestContent writes a file's size and all that is not zero in it.
func digestContent(hash io.Writer, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(hash, "\n%d:", info.Size())
	unit, zeros := make([]byte, digestUnit), make([]byte, digestUnit)
	for at := int64(0); at < info.Size(); at += digestUnit {
		p := unit[:min(digestUnit, info.Size()-at)]
		some, err := readSparse(file, p, at)
		if err != nil {
			return err
		}
		if some && !bytes.Equal(p, zeros[:len(p)]) {
			_, _ = fmt.Fprintf(hash, "%d:", at)
			_, _ = hash.Write(p)
		}
	}
	return nil
}

func digestSaved(ctx context.Context, dir string) (string, error) {
	file, err := os.Open(filepath.Join(dir, savedMemory))
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	memory, err := fillMemory(ctx, file) // its holes are where the next reader's are
	if err != nil {
		return "", err
	}
	defer func() { _ = memory.Close() }()
	return digestTemplate(dir, memory)
}

// key names everything that is in a template.
func (t *Templates) key(s machine.Spec) (string, error) {
	hash := sha256.New()
	for _, file := range []string{s.Image.Kernel, s.Image.Modules, s.Agent} {
		digest, err := t.digest(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(hash, digest)
	}
	qemu, err := fileID(t.driver.QEMU)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(hash, templateFormat, qemu, s.DiskBytes)
	args := plan{spec: s, accel: t.driver.Accel, disks: []string{baseDisk}, shared: true}.args()
	fmt.Fprintln(hash, strings.Join(args, "\n"))
	fmt.Fprintln(hash, hostProcessor())
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// digest returns a file's, which is computed once while the file stays as it
// is.
func (t *Templates) digest(path string) (string, error) {
	id, err := fileID(path)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	known := t.digests[id]
	t.mu.Unlock()
	if known != "" {
		return known, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.digests) > 64 { // of files that were replaced
		clear(t.digests)
	}
	t.digests[id] = digest
	return digest, nil
}

func fileID(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()), nil
}

// hostProcessor is what a saved machine must find again: the processor's
// model and abilities, and the kernel that virtualises it.
func hostProcessor() string {
	var words []string
	for line := range cpuInfo() {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); key == "model name" || key == "flags" {
			words = append(words, value)
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		words = append(words, unix.ByteSliceToString(name.Release[:]))
	}
	return strings.Join(words, "\n")
}

func (m Template) write(dir string) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, templateMeta), append(raw, '\n'), 0o600)
}

func readTemplate(dir string) (Template, error) {
	var meta Template
	raw, err := os.ReadFile(filepath.Join(dir, templateMeta))
	if err != nil {
		return meta, err
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return meta, fmt.Errorf("read template: %w", err)
	}
	if meta.Format != templateFormat {
		return meta, fmt.Errorf("read template: format %d is not %d", meta.Format, templateFormat)
	}
	if meta.Key != filepath.Base(dir) {
		return meta, fmt.Errorf("read template: it is %.64q", meta.Key)
	}
	return meta, nil
}

// ListTemplates returns the templates in a directory, the latest first.
// Damaged ones are left out; the error then names them, and the list is still
// good. A directory that does not exist is empty.
func ListTemplates(dir string) ([]Template, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	var found []Template
	var bad error
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		meta, err := readTemplate(filepath.Join(dir, entry.Name()))
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("template %s: %w", entry.Name(), err))
			continue
		}
		found = append(found, meta)
	}
	slices.SortFunc(found, func(a, b Template) int { return b.Created.Compare(a.Created) })
	return found, bad
}

// RemoveTemplate removes a template from disk. Machines that were started from
// it don't need it. A server that holds it finds out with the next machine,
// which boots, and makes it anew.
func RemoveTemplate(dir, key string) error { return removeTemplate(dir, key) }

// keyForm is what Templates.key makes.
var keyForm = regexp.MustCompile(`^[0-9a-f]{16}$`)

func removeTemplate(dir, key string) error {
	if !keyForm.MatchString(key) {
		return fmt.Errorf("remove template: bad key %q", key)
	}
	if err := os.RemoveAll(filepath.Join(dir, key)); err != nil {
		return fmt.Errorf("remove template: %w", err)
	}
	return nil
}

// usedBytes is what the files of a directory take on disk.
func usedBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, entry := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, entry.Name()), &st); err != nil {
			return 0, err
		}
		sum += st.Blocks * 512
	}
	return sum, nil
}
