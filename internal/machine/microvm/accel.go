package microvm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kvmDevice is where the host's kernel offers virtualisation.
const kvmDevice = "/dev/kvm"

// Accelerate returns the best acceleration of this host. If it is not KVM, the
// error says why.
func Accelerate() (Acceleration, error) {
	flags, err := cpuFlags()
	if err != nil {
		return TCG, err
	}
	if !slices.Contains(flags, "vmx") && !slices.Contains(flags, "svm") {
		return TCG, errors.New("the processor offers no virtualisation (no flag vmx or svm in /proc/cpuinfo): switch it on in the firmware, or, in a virtual machine, allow nested virtualisation on its host")
	}
	fd, err := unix.Open(kvmDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return TCG, fmt.Errorf("open %s: %w: load the module kvm_intel or kvm_amd", kvmDevice, err)
	}
	return KVM, unix.Close(fd)
}

func cpuFlags() ([]string, error) {
	for line, err := range cpuInfo() {
		if err != nil {
			return nil, err
		}
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" {
			return strings.Fields(value), nil
		}
	}
	return nil, nil
}

// cpuInfo yields the lines about the first processor.
func cpuInfo() func(yield func(string, error) bool) {
	return func(yield func(string, error) bool) {
		f, err := os.Open("/proc/cpuinfo")
		if err != nil {
			yield("", err)
			return
		}
		defer func() { _ = f.Close() }()
		lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
		for lines.Scan() && lines.Text() != "" {
			if !yield(lines.Text(), nil) {
				return
			}
		}
	}
}
