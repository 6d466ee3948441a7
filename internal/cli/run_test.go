package cli

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// frozen is a process in a sandbox that answers nothing.
type frozen struct{}

func (frozen) Kill(ctx context.Context, _ string) error {
	<-ctx.Done()
	return fmt.Errorf("call processKill: %w", ctx.Err())
}

type willing struct{}

func (willing) Kill(context.Context, string) error { return nil }

func TestSignalThatNobodyTakes(t *testing.T) {
	for p, want := range map[killer]bool{frozen{}: true, willing{}: false} {
		synctest.Test(t, func(t *testing.T) {
			signals, done := make(chan os.Signal, 1), make(chan struct{})
			ctx, abandon := context.WithCancel(t.Context())
			defer abandon()
			go passSignals(p, signals, done, abandon)
			signals <- syscall.SIGTERM
			time.Sleep(signalTimeout + time.Second)
			synctest.Wait()
			if got := ctx.Err() != nil; got != want {
				t.Errorf("%T: given up is %v", p, got)
			}
			close(done)
		})
	}
}
