package microvm

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// What a machine with 512 MiB of memory in use waits for when it is copied: at
// once, and after a copy ahead with a part of the pages changed since.
func BenchmarkCopy(b *testing.B) {
	const size = 512 << 20
	base, err := newMemory(size)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = base.Close() }()
	memory, err := unix.Mmap(int(base.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	for n := range size / pageSize {
		page(memory, n, byte(n%250+1))
	}
	run := func(b *testing.B, ahead bool, changedOf int) {
		for b.Loop() {
			b.StopTimer()
			out, err := newMemory(size)
			if err != nil {
				b.Fatal(err)
			}
			c, err := newCopier(out, os.Getpid(), base, size, true)
			if err == nil && ahead {
				err = c.copyAhead(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			if changedOf > 0 {
				for n := 0; n < size/pageSize; n += changedOf {
					memory[n*pageSize]++
				}
			}
			b.StartTimer()
			if err := c.copyAll(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			c.close()
			_ = out.Close()
			b.StartTimer()
		}
		b.SetBytes(size)
	}
	b.Run("at once", func(b *testing.B) { run(b, false, 0) })
	for _, of := range []int{0, 100, 10, 1} {
		b.Run(fmt.Sprintf("again, one page of %d changed", of), func(b *testing.B) { run(b, true, of) })
	}
}
