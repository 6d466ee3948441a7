package microvm

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/atollhq/atoll/internal/machine"
)

// The descriptors that QEMU inherits.
const (
	fdQMP = iota + 3
	fdNIC
	fdLink
	fdBell
	fdConsole
	fdMemory
	fdImage
	fdState // of a restored machine only
)

// The paths in QEMU's jail.
const (
	jailKernel    = "/kernel"
	jailInitramfs = "/initramfs"
	jailWork      = "/work"
)

// The serials by which the guest knows its disks.
const (
	rootSerial = "atoll-root"
	diskSerial = "atoll-disk"
)

// rootNode is the image's block node; disks' are named after their files.
const rootNode = "root"

// Acceleration is how the guest's processors are made.
type Acceleration string

// The kinds of acceleration.
const (
	KVM Acceleration = "kvm" // by the processor
	TCG Acceleration = "tcg" // by translation: several times slower, for hosts without virtualisation
)

// plan is everything that QEMU's arguments depend on.
type plan struct {
	spec   machine.Spec
	accel  Acceleration
	tscKHz int      // of the host, for TCG: the guest has nothing to measure it with
	disks  []string // files in the work directory, from the first to the one that is written to
	shared bool     // the memory's file is this machine's own; else it is only read, and changes are private
	load   bool     // continue from a saved state
}

// args are QEMU's arguments: a pure function, so that a golden file shows
// every change of what a guest can reach.
func (p plan) args() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	args = append(args, p.board()...)
	args = append(args, ports()...)
	args = append(args, p.card()...)
	args = append(args, p.drives()...)
	return append(args, p.start()...)
}

// board is the machine: no PCI, USB, firmware options, clock chip or legacy
// interrupt controller; one serial line, for the kernel's last words.
func (p plan) board() []string {
	accel, cpu := "kvm", "host"
	if p.accel == TCG {
		accel, cpu = "tcg,thread="+p.threads()+",tb-size=64", "max"
	}
	return []string{
		"-machine", "microvm,acpi=on,pcie=off,usb=off,pic=off,pit=off,rtc=off,ioapic2=off,isa-serial=on," +
			"auto-kernel-cmdline=off,x-option-roms=off,suppress-vmdesc=on,memory-backend=memory",
		"-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(p.spec.CPUs),
		"-m", size(p.spec.MemoryBytes),
		"-object", fmt.Sprintf("memory-backend-file,id=memory,size=%s,mem-path=%s,share=%s",
			size(p.spec.MemoryBytes), descriptor(fdMemory), onOff(p.shared)),
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
		// A state without a description of the machine: whoever saved it made it
		// by the same function.
		"-global", "migration.send-configuration=off",
	}
}

// threads says whether QEMU translates for all processors at the same time. A
// kernel patches its code while it boots, by way of breakpoints (int3), and
// QEMU 7.2 lets another processor run into one that is gone already, at times:
// the kernel panics. So a machine that boots has one thread. Those that are
// made from a template have one for each processor.
func (p plan) threads() string {
	if p.load {
		return "multi"
	}
	return "single"
}

// ports are the monitor, which is the shim's alone, the console, and the two
// streams to the agent.
func ports() []string {
	return []string{
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fdQMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console",
		"-device", "virtio-serial-device,max_ports=3",
		"-chardev", fmt.Sprintf("socket,id=link,fd=%d", fdLink), "-device", "virtserialport,chardev=link,name=" + linkPort,
		"-chardev", fmt.Sprintf("socket,id=bell,fd=%d", fdBell), "-device", "virtserialport,chardev=bell,name=" + bellPort,
	}
}

// card is the network card, whose frames go to the gateway.
func (p plan) card() []string {
	return []string{
		"-netdev", fmt.Sprintf("stream,id=net,addr.type=fd,addr.str=%d", fdNIC),
		"-device", fmt.Sprintf("virtio-net-device,netdev=net,mac=%s,host_mtu=%d", p.spec.Network.GuestMAC, p.spec.Network.MTU),
	}
}

// drives are the image and the chain of files that holds what was written: the
// first is raw, each further one holds what differs from those before it. No
// flush reaches the host's disk: nothing of a machine outlives its host. A full
// disk of the host's is an error for the guest; by default, QEMU would stop the
// machine until somebody lets it go on.
func (p plan) drives() []string {
	args := []string{
		"-blockdev", "driver=file,node-name=root-file,filename=" + descriptor(fdImage) + ",read-only=on,locking=off",
		"-blockdev", "driver=raw,node-name=" + rootNode + ",file=root-file,read-only=on",
		"-device", "virtio-blk-device,drive=" + rootNode + ",serial=" + rootSerial,
	}
	top := len(p.disks) - 1
	for i, file := range p.disks {
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=%s-file,filename=%s/%s,read-only=%s,locking=off,discard=unmap,cache.no-flush=on",
				nodeName(file), jailWork, file, onOff(i < top)),
			"-blockdev", formatOf(file)+fmt.Sprintf(",node-name=%s,file=%[1]s-file,read-only=%s,discard=unmap,cache.no-flush=on", nodeName(file), onOff(i < top))+below(p.disks[:i]))
	}
	return append(args, "-device", "virtio-blk-device,drive="+nodeName(p.disks[top])+",serial="+diskSerial+",werror=report")
}

// descriptor names a file that QEMU inherits.
func descriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// nodeName is of a disk's file.
func nodeName(file string) string { return strings.TrimSuffix(file, filepath.Ext(file)) }

func formatOf(file string) string { return "driver=" + filepath.Ext(file)[1:] }

func below(chain []string) string {
	if len(chain) == 0 {
		return ""
	}
	return ",backing=" + nodeName(chain[len(chain)-1])
}

// start is what the machine does first.
func (p plan) start() []string {
	if p.load {
		return []string{"-incoming", fmt.Sprintf("fd:%d", fdState)}
	}
	return []string{"-kernel", jailKernel, "-initrd", jailInitramfs, "-append", p.commandLine()}
}

// commandLine is the kernel's. What it doesn't know, "NAME=value", goes into
// its first program's environment; what follows "--" are its arguments.
func (p plan) commandLine() string {
	words := []string{
		"console=ttyS0", "loglevel=3", "panic=-1", "reboot=t", "edd=off", "pci=off", "rdinit=/init",
		"GOMAXPROCS=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	if p.accel == TCG {
		words = append(words, "mitigations=off", "tsc=reliable", "tsc_early_khz="+strconv.Itoa(p.tscKHz))
	}
	return strings.Join(append(words, "--", "-boot"), " ")
}

func size(bytes int64) string { return strconv.FormatInt(bytes>>10, 10) + "K" }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
