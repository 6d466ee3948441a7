package microvm

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/machine"
)

// files returns a spec whose files exist, and their directory.
func files(t *testing.T) (machine.Spec, string) {
	t.Helper()
	dir := t.TempDir()
	s := exampleSpec()
	s.Image = machine.Image{File: filepath.Join(dir, "image"), Kernel: filepath.Join(dir, "kernel"), Modules: filepath.Join(dir, "modules")}
	s.Agent, s.Dir = filepath.Join(dir, "agent"), filepath.Join(dir, "machine")
	for _, path := range []string{s.Image.File, s.Image.Kernel, s.Image.Modules, s.Agent} {
		write(t, path, filepath.Base(path))
	}
	return s, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSavedComesBack(t *testing.T) {
	s, _ := files(t)
	image, err := imageAt(s.Image.File)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := saved{
		Format: savedFormat, MemoryBytes: s.MemoryBytes, CPUs: s.CPUs, DiskBytes: s.DiskBytes,
		Disks: []string{baseDisk, "disk1.qcow2"}, Image: image, Once: true,
	}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readSaved(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What is damaged, of another machine, or names files that no machine has is
// refused.
func TestSavedIsRefused(t *testing.T) {
	s, _ := files(t)
	image, err := imageAt(s.Image.File)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*saved){
		"another format":       func(m *saved) { m.Format++ },
		"other memory":         func(m *saved) { m.MemoryBytes++ },
		"other processors":     func(m *saved) { m.CPUs++ },
		"another disk size":    func(m *saved) { m.DiskBytes++ },
		"another image":        func(m *saved) { m.Image = "1" + m.Image },
		"no disk":              func(m *saved) { m.Disks = nil },
		"a path for a disk":    func(m *saved) { m.Disks = []string{"../../../etc/shadow"} },
		"the parent for disk":  func(m *saved) { m.Disks = []string{".."} },
		"a chain out of order": func(m *saved) { m.Disks = []string{"disk1.qcow2", baseDisk} },
		"options for a disk":   func(m *saved) { m.Disks = []string{baseDisk, "disk1.qcow2,filename=/image"} },
		"the first disk twice": func(m *saved) { m.Disks = []string{baseDisk, baseDisk} },
	} {
		meta := saved{
			Format: savedFormat, MemoryBytes: s.MemoryBytes, CPUs: s.CPUs, DiskBytes: s.DiskBytes, Disks: []string{baseDisk}, Image: image,
		}
		change(&meta)
		raw, err := json.Marshal(meta)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		write(t, filepath.Join(dir, savedMeta), string(raw))
		if _, err := readSaved(dir, s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, text := range map[string]string{"nothing": "", "half": `{"format":1,`, "another type": `{"disks":"disk0.raw"}`, "not JSON": "\x00"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, savedMeta), text)
		if _, err := readSaved(dir, s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := readSaved(t.TempDir(), s); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestTemplateIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "half": `{"format":1,`, "another format": `{"format":99}`, "another type": `{"format":1,"memoryBytes":"1"}`,
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, templateMeta), text)
		if _, err := readTemplate(dir); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Keys of templates.
const (
	keyA = "aaaaaaaaaaaaaaaa"
	keyB = "bbbbbbbbbbbbbbbb"
	keyC = "cccccccccccccccc"
)

// A template on disk without a machine: its content is made up.
func fakeTemplate(t *testing.T, in string, meta Template) {
	t.Helper()
	dir := filepath.Join(in, meta.Key)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, savedState), "state")
	write(t, blankDisk(dir), "a blank disk")
	memory, err := os.Create(filepath.Join(dir, savedMemory))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	if err := memory.Truncate(meta.MemoryBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := memory.WriteAt([]byte("memory"), chunk+12345); err != nil {
		t.Fatal(err)
	}
	if meta.Digest, err = digestSaved(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	meta.Format = templateFormat
	if err := meta.write(dir); err != nil {
		t.Fatal(err)
	}
}

func newTemplates(t *testing.T, dir string) *Templates {
	t.Helper()
	made, err := NewTemplates(dir, New(Config{QEMU: os.Args[0], Accel: KVM}), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

// A template is opened if it is what was saved, to the byte.
func TestOpenOfTemplates(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"":                 func(*testing.T, string) {},
		"state cut short":  func(t *testing.T, dir string) { truncate(t, dir, savedState, 3) },
		"state gone":       func(t *testing.T, dir string) { remove(t, dir, savedState) },
		"state changed":    func(t *testing.T, dir string) { flip(t, dir, savedState, 2) },
		"memory cut short": func(t *testing.T, dir string) { truncate(t, dir, savedMemory, chunk) },
		"memory longer":    func(t *testing.T, dir string) { truncate(t, dir, savedMemory, 5*chunk) },
		"memory gone":      func(t *testing.T, dir string) { remove(t, dir, savedMemory) },
		"memory changed":   func(t *testing.T, dir string) { flip(t, dir, savedMemory, chunk+12346) },
		"a hole filled":    func(t *testing.T, dir string) { flip(t, dir, savedMemory, 3*chunk) },
		"disk changed":     func(t *testing.T, dir string) { flip(t, dir, "blank.raw", 5) },
		"disk longer":      func(t *testing.T, dir string) { truncate(t, dir, "blank.raw", chunk) },
		"disk gone":        func(t *testing.T, dir string) { remove(t, dir, "blank.raw") },
		"metadata cut":     func(t *testing.T, dir string) { truncate(t, dir, templateMeta, 20) },
		"metadata gone":    func(t *testing.T, dir string) { remove(t, dir, templateMeta) },
		"another's place": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, templateMeta), strings.Replace(read(t, dir, templateMeta), keyA, keyB, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fakeTemplate(t, dir, Template{Key: keyA, MemoryBytes: 4 * chunk})
			damage(t, filepath.Join(dir, keyA))
			snapshot, err := newTemplates(t, dir).open(t.Context(), keyA)
			if name != "" {
				if err == nil {
					t.Error("opened")
					_ = snapshot.Close()
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			memory, err := openShared(snapshot, 4*chunk)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = memory.Close() }()
			got := make([]byte, 6)
			if _, err := memory.ReadAt(got, chunk+12345); err != nil || string(got) != "memory" {
				t.Errorf("read %q (%v)", got, err)
			}
			if err := snapshot.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func truncate(t *testing.T, dir, name string, bytes int64) {
	t.Helper()
	if err := os.Truncate(filepath.Join(dir, name), bytes); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, dir, name string, at int64) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestListAndRemoveTemplates(t *testing.T) {
	const bad = "badbadbadbadbadb"
	dir := t.TempDir()
	if list, err := ListTemplates(filepath.Join(dir, "absent")); err != nil || list != nil {
		t.Errorf("no directory: %v, %v", list, err)
	}
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, key := range []string{keyA, keyB, keyC} {
		fakeTemplate(t, dir, Template{Key: key, MemoryBytes: 4 * chunk, Created: began.Add(time.Duration([]int{0, 2, 1}[i]) * time.Hour)})
	}
	fakeTemplate(t, dir, Template{Key: buildPrefix + keyA, MemoryBytes: 4 * chunk})
	fakeTemplate(t, dir, Template{Key: bad, MemoryBytes: 4 * chunk})
	truncate(t, filepath.Join(dir, bad), templateMeta, 5)
	write(t, filepath.Join(dir, "a file"), "")

	list, err := ListTemplates(dir)
	if err == nil || !strings.Contains(err.Error(), "template "+bad) {
		t.Errorf("the damaged one is not named: %v", err)
	}
	var keys []string
	for _, m := range list {
		keys = append(keys, m.Key)
	}
	if diff := cmp.Diff([]string{keyB, keyC, keyA}, keys); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, key := range []string{bad, keyC, "00000000ffffffff"} {
		if err := RemoveTemplate(dir, key); err != nil {
			t.Error(err)
		}
	}
	if list, err = ListTemplates(dir); err != nil || len(list) != 2 {
		t.Errorf("%d templates are left (%v)", len(list), err)
	}
	for _, key := range []string{"", ".", "..", "/", "../x", "a/b", strings.ToUpper(keyB), keyB + "0", keyB + "\n", buildPrefix + keyA} {
		if err := RemoveTemplate(dir, key); err == nil {
			t.Errorf("key %q was taken", key)
		}
	}
	if list, err = ListTemplates(dir); err != nil || len(list) != 2 {
		t.Errorf("%d templates are left (%v)", len(list), err)
	}
}

// Unfinished templates go, finished ones stay.
func TestUnfinishedTemplatesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	fakeTemplate(t, dir, Template{Key: keyA, MemoryBytes: 4 * chunk})
	fakeTemplate(t, dir, Template{Key: buildPrefix + keyB, MemoryBytes: 4 * chunk})
	newTemplates(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != keyA {
		t.Errorf("left: %v (%v)", entries, err)
	}
}

// A template's key changes with all that is in it, and with nothing else.
func TestTemplateKey(t *testing.T) {
	s, dir := files(t)
	key := func(c Config, s machine.Spec) string {
		t.Helper()
		if c.QEMU == "" {
			c.QEMU = os.Args[0]
		}
		key, err := (&Templates{driver: New(c), digests: map[string]string{}}).key(s)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	base := key(Config{}, s)
	if filepath.Base(base) != base || len(base) != 16 {
		t.Errorf("key %q", base)
	}
	other := func(name string) string {
		path := filepath.Join(dir, "other-"+name)
		write(t, path, "another "+name)
		return path
	}
	for name, change := range map[string]func(*machine.Spec){
		"kernel":     func(s *machine.Spec) { s.Image.Kernel = other("kernel") },
		"modules":    func(s *machine.Spec) { s.Image.Modules = other("modules") },
		"agent":      func(s *machine.Spec) { s.Agent = other("agent") },
		"memory":     func(s *machine.Spec) { s.MemoryBytes += chunk },
		"processors": func(s *machine.Spec) { s.CPUs++ },
		"disk size":  func(s *machine.Spec) { s.DiskBytes += 1 << 20 },
		"card's MTU": func(s *machine.Spec) { s.Network.MTU-- },
		"card's MAC": func(s *machine.Spec) { s.Network.GuestMAC = []byte{2, 0, 0, 0, 0, 9} },
	} {
		changed := s
		change(&changed)
		if key(Config{}, changed) == base {
			t.Errorf("another %s is the same template", name)
		}
	}
	for name, c := range map[string]Config{"acceleration": {Accel: TCG}, "QEMU": {QEMU: s.Agent}} {
		if key(c, s) == base {
			t.Errorf("another %s is the same template", name)
		}
	}
	same := s
	same.ID, same.Dir, same.Hostname, same.MaxPIDs = "sbx_other", "/elsewhere", "other", 5
	same.Image.File = "/another/image"
	same.Network.Guest4, same.AttachNIC, same.Template = exampleSpec().Network.Guest4, nil, &machine.Snapshot{}
	same.Image.Kernel = filepath.Join(dir, "moved")
	write(t, same.Image.Kernel, "kernel") // the same content
	if key(Config{Jail: "/another/shim"}, same) != base {
		t.Error("something that is in no template changes its key")
	}
	if _, err := (&Templates{driver: New(Config{QEMU: "/absent"}), digests: map[string]string{}}).key(s); err == nil {
		t.Error("a key without a QEMU")
	}
}

// A digest is known while the file stays as it is, and no longer.
func TestDigestFollowsTheFile(t *testing.T) {
	templates := &Templates{digests: map[string]string{}}
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one")
	one, err := templates.digest(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := templates.digest(path)
	if err != nil || again != one {
		t.Errorf("%q, then %q (%v)", one, again, err)
	}
	write(t, path, "another")
	if changed, err := templates.digest(path); err != nil || changed == one {
		t.Errorf("the same digest (%v)", err)
	}
}
