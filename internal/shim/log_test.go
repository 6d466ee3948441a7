package shim

import (
	"strings"
	"testing"
)

func TestCappedLogFallsSilent(t *testing.T) {
	var out strings.Builder
	log := &CappedLog{To: &out, Left: 10}
	for _, line := range []string{"12345\n", "1234567\n", "x\n"} {
		if n, err := log.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if got, want := out.String(), "12345\n"+cappedNotice; got != want {
		t.Errorf("wrote %q; want %q", got, want)
	}
}
