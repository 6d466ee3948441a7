package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"/modules/00-virtio_blk.ko":    "virtio_blk",
		"/modules/12-virtio-rng.ko":    "virtio_rng",
		"/modules/03-crc32c-intel.ko":  "crc32c_intel",
		"/modules/erofs.ko":            "erofs",
		"04-overlay.ko":                "overlay",
		"/modules/100-virtio_blk.ko":   "virtio_blk",
		"/modules/05-virtio_blk.ko.xz": "virtio_blk.ko.xz", // no module, and no disk's
	} {
		if got := moduleName(file); got != want {
			t.Errorf("%s: %q; want %q", file, got, want)
		}
	}
}

// tree makes the attributes of devices.
func tree(t *testing.T, attribute string, devices map[string]string) (pattern string) {
	t.Helper()
	dir := t.TempDir()
	for device, content := range devices {
		if err := os.Mkdir(filepath.Join(dir, device), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, device, attribute), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "*", attribute)
}

func TestDevicesAreFoundByTheirAttributes(t *testing.T) {
	pattern := tree(t, "serial", map[string]string{
		"vda": "atoll-root\n", "vdb": "atoll-disk", "vdc": "", "vdd": "atoll-disk-2\n",
	})
	for serial, want := range map[string]string{"atoll-root": "/dev/vda", "atoll-disk": "/dev/vdb", "atoll-disk-2": "/dev/vdd"} {
		if got, err := named(pattern, serial); err != nil || got != want {
			t.Errorf("%s: %q (%v); want %q", serial, got, err, want)
		}
	}
	for _, serial := range []string{"atoll", "atoll-roo", "vda"} {
		if got, err := named(pattern, serial); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q (%v)", serial, got, err)
		}
	}
	if got, err := named(filepath.Join(t.TempDir(), "*", "name"), LinkPort); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no devices: %q (%v)", got, err)
	}
}

func TestAwaitTriesAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	tries := 0
	got, err := await("device", func() (string, error) {
		switch tries++; tries {
		case 1:
			return "", fs.ErrNotExist
		case 3: // known by name before it is there
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		return path, nil
	})
	if err != nil || got != path || tries != 3 {
		t.Errorf("%q after %d tries (%v)", got, tries, err)
	}
}
