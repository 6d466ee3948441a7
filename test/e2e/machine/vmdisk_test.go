//go:build e2e

package machine

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/atollhq/atoll/internal/machine"
)

// takes is what the files of a machine's disk take on the host.
func (v *vm) takes(t *testing.T) (bytes int64, files int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(v.spec.Dir, "work", "disk*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		bytes += st.Blocks * 512
	}
	return bytes, len(paths)
}

// A guest that is saved again and again, and writes all of its disk anew in
// between, takes no more of the host's disk than a few times its own. Nothing
// is lost on the way, neither for it nor for those that continue from it.
func TestDiskOfAMachineThatIsSavedAgainAndAgain(t *testing.T) {
	d, log := vmDriver(t)
	s := vmSpec(t, unread(t))
	s.DiskBytes = 96 << 20
	v := beginVM(t, d, log, s)
	v.do(t, "head -c 1M /dev/urandom > /home/app/kept && sha256sum /home/app/kept > /home/app/sum && sync")
	save := func() (dir string, saved machine.Snapshot) {
		t.Helper()
		dir = t.TempDir()
		saved, err := v.m.(machine.Saver).Save(deadline(t), machine.SaveOptions{Dir: dir, Leave: true})
		if err != nil {
			t.Fatal(err)
		}
		return dir, saved
	}
	early, first := save()
	flattened := false
	for range 6 {
		v.do(t, "rm -f /home/app/filler && dd if=/dev/zero of=/home/app/filler bs=1M count=60 conv=fsync")
		before, files := v.takes(t)
		dir, saved := save()
		if _, after := v.takes(t); after <= files {
			flattened = true
		}
		if before > 3*s.DiskBytes+16<<20 {
			t.Errorf("%d files of a disk of %d MiB take %d MiB", files, s.DiskBytes>>20, before>>20)
		}
		if err := saved.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		v.do(t, "sha256sum -c /home/app/sum")
	}
	if !flattened {
		t.Error("the disk was never flattened: this tests nothing")
	}
	// Of before, and of after.
	_, last := save()
	for _, from := range []machine.Snapshot{first, last} {
		c := becomeVM(t, v, from)
		c.do(t, "echo 3 | sudo tee /proc/sys/vm/drop_caches && sha256sum -c /home/app/sum && echo more > /home/app/more && sync")
		if err := from.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(early, "disk0.raw")); err != nil {
		t.Errorf("of what was saved first: %v", err)
	}
	v.survives(t)
}
