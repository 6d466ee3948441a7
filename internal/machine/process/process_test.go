package process

import (
	"io"
	"os/exec"
	"testing"

	"github.com/atollhq/atoll/internal/machine"
)

func TestEndIsDeliveredOnce(t *testing.T) {
	p := New()
	if p.Over() || p.PID() != 0 {
		t.Error("it is over before it began")
	}
	p.Finish(machine.Exit{Reason: machine.ExitOOM})
	p.Finish(machine.Exit{Reason: machine.ExitCrashed})
	first, second := <-p.Exited(), <-p.Exited()
	if first.Reason != machine.ExitOOM || second != (machine.Exit{}) || !p.Over() {
		t.Errorf("its ends are %+v and %+v", first, second)
	}
	<-p.Done()
	if err := p.Kill(); err != nil {
		t.Errorf("one that never was is killed: %v", err)
	}
}

func TestKillWaitsForTheEnd(t *testing.T) {
	p, cmd := New(), exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Started(cmd.Process)
	if p.PID() != cmd.Process.Pid {
		t.Errorf("its id is %d", p.PID())
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
		p.Finish(machine.Exit{Reason: machine.ExitStopped})
	}()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if e := <-p.Exited(); e.Reason != machine.ExitStopped {
		t.Errorf("its end is %+v", e)
	}
	p.Signal(15) // does nothing any more
}

func TestConnPair(t *testing.T) {
	our, their, err := ConnPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = our.Close() }()
	if _, err := their.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = their.Close()
	if text, err := io.ReadAll(our); err != nil || string(text) != "hello" {
		t.Errorf("read %q (%v)", text, err)
	}
}
