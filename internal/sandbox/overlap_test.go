package sandbox

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"example.com", "example.com:443", true},
		{"example.com:80", "example.com:443", false},
		{"example.com", "*.example.com", false},
		{"*.example.com", "*.a.example.com:443", true},
		{"*.example.com:443", "a.example.com", true},
		{"*.a.example.com", "*.b.example.com", false},
		{"192.0.2.7:80", "192.0.2.0/24:80", true},
		{"192.0.2.7:80", "192.0.2.0/24:81", false},
		{"2001:db8::1", "[2001:db8::]/32:443", true},
		{"[2001:db8::1]:80", "[2001:db8::]/32:443", false},
		{"[2001:db8::1]:443", "2001:db8::/32", true},
		{"192.0.2.7", "example.com", false},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			a, errA := newReach(pair[:1])
			b, errB := newReach(pair[1:])
			if errA != nil || errB != nil || a.meets(b) != c.want {
				t.Errorf("%v: %v %v %v", pair, !c.want, errA, errB)
			}
		}
	}
}

// TestManyHostsAreCheckedInTime: a client may send lists that are as long as a
// configuration can be, as often as it likes.
func TestManyHostsAreCheckedInTime(t *testing.T) {
	var entries []string
	for i := range policy.MaxEntries {
		entries = append(entries, fmt.Sprintf("x%d.de", i))
	}
	specs := map[string]secret.Spec{}
	for i := range 40 {
		specs[fmt.Sprint("k", i)] = secret.Spec{Hosts: entries[i : i+50]}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := worked(t)
	if err := checkReach(specs, entries, "it is not"); err != nil {
		t.Fatal(err)
	}
	if took := worked(t) - began; took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// worked is the processor time that this thread has used.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
