package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/machine/microvm"
)

// lacking is a finding that keeps microVMs from running: fatal only where they
// were asked for.
func (h Host) lacking(detail, remedy string) Check {
	if h.Isolation == config.IsolationMicrovm {
		return fail(detail, remedy)
	}
	return warn(detail, remedy)
}

// qemu looks at the programs that microVMs need.
func (h Host) qemu(ctx context.Context) Check {
	host := h.Examine(ctx)
	if host.Lacks != nil {
		return h.lacking(oneLine(host.Lacks), "needed by the isolation microvm only; on Debian: apt install qemu-system-x86 qemu-utils e2fsprogs")
	}
	return ok(fmt.Sprintf("%s %s, with mke2fs and qemu-img", host.QEMU.Path, host.QEMU.Version))
}

// isolation says what the setting comes to.
func (h Host) isolation(ctx context.Context) Check {
	switch h.Isolation {
	case config.IsolationGvisor:
		return ok("gvisor")
	case config.IsolationMicrovm:
		if slow := h.Examine(ctx).Slow; slow != nil {
			return warn("microvm by software emulation, several times slower than with KVM: "+oneLine(slow), "use a host with KVM, or the isolation gvisor")
		}
		return ok("microvm, with KVM")
	}
	driver, why := h.Examine(ctx).Auto()
	if driver == microvm.Name {
		return ok("auto: microvm with KVM, if a trial at the server's start works")
	}
	return ok("auto: " + driver + ", not microvm: " + oneLine(why))
}

// trial boots a microVM.
func (h Host) trial(ctx context.Context) Check {
	took, err := h.Try(ctx)
	if err != nil {
		return h.lacking("a microVM does not boot: "+oneLine(err), "mend what the checks above found; a trial needs root")
	}
	return ok(fmt.Sprintf("a microVM booted and was saved in %v", took.Round(10*time.Millisecond)))
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
