package proc

import (
	"testing"
	"testing/synctest"
	"time"
)

// The output of a process that no client waits for comes all the same.
func TestGateOpensByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Process{gate: make(chan struct{})}
		p.scheduleGate(nil)
		began := time.Now()
		<-p.gate
		if waited := time.Since(began); waited != gatePatience {
			t.Errorf("after %v", waited)
		}
		p.openGate() // a late processWait
	})
}
