package fs

import (
	"fmt"
	"os"
	"testing"
)

// A stat is the cheapest call: what it takes is the way to a worker and back.
func BenchmarkStat(b *testing.B) {
	s := New(Config{UserID: 1000, GroupID: 1000, Home: "/"})
	defer s.Close()
	for b.Loop() {
		if _, err := s.stat(b.Context(), at("/tmp")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSmallFiles(b *testing.B) {
	for _, workers := range []int{1, 4, 16} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			dir, err := os.MkdirTemp("/dev/shm", "fs-bench-")
			if err != nil {
				dir = b.TempDir()
			}
			defer os.RemoveAll(dir)
			_ = os.Chmod(dir, 0o777)
			s := New(Config{UserID: 1000, GroupID: 1000, Home: dir, Workers: workers})
			defer s.Close()
			b.SetParallelism(100)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := s.writeFile(b.Context(), fmt.Sprint(i%100), nil, []byte("x")); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
