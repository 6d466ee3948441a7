package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
)

// fakeHost stands in for a host with the build's tools: scripts that leave
// the traces the real ones would.
type fakeHost struct {
	t    *testing.T
	bin  string // first in PATH
	dir  string // image directory
	npm  string // archives that the fake registry has, by package name
	say  bytes.Buffer
	pins []runtimePackage
}

const (
	fakeNpm = `#!/bin/sh
for last; do :; done
[ "$1" = pack ] || exit 9
while [ $# -gt 1 ]; do [ "$1" = --pack-destination ] && dest=$2; shift; done
cp "$NPM/${last%@*}.tgz" "$dest/" || { echo "npm error 404 no such package"; exit 1; }
`
	fakeMmdebstrap = `#!/bin/sh
echo run >>"$CALLS"
for root; do :; done
echo "I: fake bootstrap"
mkdir -p "$root/usr/bin" "$root/etc/sudoers.d" "$root/home/app" "$root/.atoll" "$root/tmp" "$root/root"
mkdir -p "$root/usr/local"
for p in bash sudo git python3; do echo x >"$root/usr/bin/$p"; chmod 755 "$root/usr/bin/$p"; done
cp -R "$(dirname "$root")/local/." "$root/usr/local/"
for p in npm npx; do ln -s ../lib/node_modules/npm/bin/$p-cli.js "$root/usr/local/bin/$p"; done
echo "app:x:1000:1000::/home/app:/bin/bash" >"$root/etc/passwd"
echo "app ALL=(ALL:ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/app"
echo 1234 >"$root/etc/machine-id"; echo "nameserver 192.0.2.1" >"$root/etc/resolv.conf"
work=$(dirname "$root")
echo "deno 2.9.6" >"$work/versions"; echo "linux 6.12.1-cloud" >>"$work/versions"; echo "bash 5.2" >"$work/packages"
mkdir -p "$root/usr/sbin" "$root/usr/lib/modules/6.12.1-cloud" "$work/modules"
echo x >"$root/usr/sbin/modprobe"; chmod 755 "$root/usr/sbin/modprobe"
touch "$root/usr/lib/modules/6.12.1-cloud/modules.dep"
echo kernel >"$work/vmlinuz"
for m in 10-ext4 00-virtio 01-virtio_blk; do echo "$m" >"$work/modules/$m.ko"; done
`
	fakeErofs = `#!/bin/sh
if [ "$1" = -V ]; then echo "mkfs.erofs 1.5"; echo "invalid option" >&2; exit 1; fi
while [ $# -gt 2 ]; do shift; done
{ echo "erofs of $(cat "$2/etc/hostname")"; ls -A "$2"; } >"$1"
`
)

func newFakeHost(t *testing.T) *fakeHost {
	t.Helper()
	h := &fakeHost{t: t, bin: t.TempDir(), npm: t.TempDir(), dir: filepath.Join(t.TempDir(), "images")}
	h.tool("npm", fakeNpm)
	h.tool("mmdebstrap", fakeMmdebstrap)
	h.tool("mkfs.erofs", fakeErofs)
	t.Setenv("PATH", h.bin+":/usr/bin:/bin")
	t.Setenv("NPM", h.npm)
	t.Setenv("CALLS", filepath.Join(h.bin, "calls"))
	h.publish("deno", denoFiles, map[string]string{"package/deno": "#!deno"})
	h.publish("node", nodeFiles, map[string]string{"package/bin/node": "#!node", "package/README.md": "x"})
	h.publish("npm", npmFiles, map[string]string{
		"package/package.json": "{}", "package/bin/npm-cli.js": "#!npm", "package/bin/npx-cli.js": "#!npx",
	})
	return h
}

// tool installs or replaces a program.
func (h *fakeHost) tool(name, script string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.bin, name), []byte(script), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// publish puts a package into the fake registry and pins it.
func (h *fakeHost) publish(name string, files []placement, content map[string]string) {
	h.t.Helper()
	data := archive(h.t, content)
	if err := os.WriteFile(filepath.Join(h.npm, name+".tgz"), data, 0o644); err != nil {
		h.t.Fatal(err)
	}
	sum := sha512.Sum512(data)
	h.pins = append(h.pins, runtimePackage{name, name, "1.0.0", "sha512-" + base64.StdEncoding.EncodeToString(sum[:]), files})
}

// builder returns a builder that needs neither root nor much space.
func (h *fakeHost) builder() *builder {
	h.t.Helper()
	b, err := newBuilder(Options{Dir: h.dir, Arch: "amd64", Progress: &h.say})
	if err != nil {
		h.t.Fatal(err)
	}
	b.recipe.Runtimes = h.pins
	b.tools.isolate = false
	b.euid = 0
	b.space = 0
	return b
}

// bootstraps counts how often a root was made.
func (h *fakeHost) bootstraps() int {
	text, _ := os.ReadFile(filepath.Join(h.bin, "calls"))
	return bytes.Count(text, []byte("\n"))
}

// names lists the image directory, without the lock.
func (h *fakeHost) names() []string {
	h.t.Helper()
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != ".debian-13.lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func archive(t *testing.T, content map[string]string) []byte {
	t.Helper()
	var data bytes.Buffer
	zip := gzip.NewWriter(&data)
	w := tar.NewWriter(zip)
	for name, text := range content {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}
