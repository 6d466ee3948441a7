package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// How runsc names its children's processes.
const (
	goferName  = "runsc-gofer"
	sentryName = "runsc-sandbox"
)

// Settle ends the gofer. It served two purposes, both over once the agent
// runs: it opened the disk's file, and it handed out the agent's binary, which
// the sentry has open. A gofer costs several MiB per machine. runsc reaps it
// and takes its end for what it is.
func (m *gvisorMachine) Settle() error {
	if err := m.signal(goferName, unix.SIGKILL); err != nil {
		return fmt.Errorf("end gofer: %w", err)
	}
	return nil
}

// signal sends a signal to the processes of a name that runsc has started. When
// runsc has ended, the children of its number are another machine's.
func (m *gvisorMachine) signal(name string, sig unix.Signal) error {
	if m.PID() == 0 || m.Over() {
		return nil
	}
	for _, pid := range children(m.PID()) {
		if err := signalNamed(pid, name, sig); err != nil {
			return err
		}
	}
	return nil
}

// signalNamed sends a signal to a process if it has a name. The descriptor
// makes sure that what is looked at is what gets the signal.
func signalNamed(pid int, name string, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer func() { _ = unix.Close(fd) }()
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !strings.HasPrefix(string(cmdline), name+"\x00") {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// children lists the processes that any thread of pid started.
func children(pid int) []int {
	files, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/children"))
	var pids []int
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(raw)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
