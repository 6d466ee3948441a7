package audit

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// next reads all lines that are there.
func next(t testing.TB, r *Reader) (out []string) {
	t.Helper()
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(string(line)))
	}
}

func written(t testing.TB, limit int64) (*rotating, func(i int)) {
	dir := t.TempDir()
	w := &rotating{path: filepath.Join(dir, "a"), older: filepath.Join(dir, "a.1"), max: limit}
	t.Cleanup(func() { _ = w.close() })
	return w, func(i int) {
		t.Helper()
		if err := w.write(fmt.Appendf(nil, "%d\n", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func reader(t testing.TB, w *rotating, follow bool) *Reader {
	t.Helper()
	r, err := OpenReader(w.path, w.older, follow)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// Whoever follows gets every line once and in order, however files rotate,
// as long as no two rotations happen between two looks.
func TestFollowAcrossRotations(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		w, write := written(t, 40)
		for i := range random.IntN(20) {
			write(i + 1000)
		}
		r := reader(t, w, true)
		next(t, r)
		want := 2000
		for i := 2000; i < 2400; i++ {
			write(i)
			if random.IntN(8) > 0 && i%8 > 0 { // eight lines fill a file
				continue
			}
			for _, line := range next(t, r) {
				if line != fmt.Sprint(want) {
					t.Fatalf("seed %d: line %s, want %d", seed, line, want)
				}
				want++
			}
		}
		next(t, r)
		if want < 2390 {
			t.Errorf("seed %d: read up to %d", seed, want)
		}
	}
}

// A look that comes late misses what is gone and nothing else.
func TestFollowLate(t *testing.T) {
	w, write := written(t, 40)
	r := reader(t, w, true)
	for i := 1000; i < 1100; i++ {
		write(i)
		if i == 1003 {
			next(t, r)
		}
	}
	got := next(t, r)
	if len(got) < 9 || got[len(got)-1] != "1099" || got[len(got)-9] != "1091" {
		t.Errorf("got %v", got)
	}
}

func TestFollowFromNothing(t *testing.T) {
	w, write := written(t, 1<<20)
	r := reader(t, w, true)
	if got := next(t, r); got != nil {
		t.Errorf("got %v", got)
	}
	write(1)
	if got := fmt.Sprint(next(t, r)); got != "[1]" {
		t.Errorf("got %v", got)
	}
	if err := os.Rename(w.path, w.older); err != nil { // and no new file yet
		t.Fatal(err)
	}
	write(2)
	if got := fmt.Sprint(next(t, r)); got != "[2]" {
		t.Errorf("got %v", got)
	}
}

// Without follow the end is where it was in the beginning.
func TestReadOnce(t *testing.T) {
	w, write := written(t, 40)
	for i := 10; i < 35; i++ {
		write(i)
	}
	r := reader(t, w, false)
	for i := 35; i < 60; i++ {
		write(i)
	}
	got := next(t, r)
	if len(got) == 0 || got[len(got)-1] != "34" || len(got) != 25 {
		t.Errorf("got %v", got)
	}
}

func TestBrokenLines(t *testing.T) {
	w, _ := written(t, 1<<20)
	long := `"` + strings.Repeat("x", 2*maxLine) + `"`
	text := "1\n" + long + "\n{\"a\":{\"b\"\n\n2\n{\"half\":"
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := reader(t, w, true)
	if got := fmt.Sprint(next(t, r)); got != "[1 2]" {
		t.Errorf("got %v", got)
	}
	file, err := os.OpenFile(w.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("3}\n4\n"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(next(t, r)); got != `[{"half":3} 4]` {
		t.Errorf("got %v", got)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("1\n\n{"), []byte("}\n{\"a\":1}\n"), true)
	f.Fuzz(func(t *testing.T, older, current []byte, follow bool) {
		w, _ := written(t, 1)
		for path, text := range map[string][]byte{w.older: older, w.path: current} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := reader(t, w, follow)
		lines := next(t, r)
		if len(lines) > strings.Count(string(older)+string(current), "\n") {
			t.Errorf("%d lines", len(lines))
		}
	})
}
