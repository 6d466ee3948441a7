package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/atollhq/atoll/internal/errs"
)

// tool is a host program that a build needs, and the Debian package it is in.
type tool struct{ program, debian string }

var tools = []tool{
	{"mmdebstrap", "mmdebstrap"},
	{"mkfs.erofs", "erofs-utils"},
	{"npm", "nodejs npm"},
}

// minErofs is the first mkfs.erofs that writes what the driver reads.
var minErofs = [2]int{1, 5}

// Deadlines of tools. A slow mirror is no reason to give up early.
const (
	toolTimeout    = 30 * time.Minute
	versionTimeout = 10 * time.Second
	killWait       = 10 * time.Second // for a killed tool's pipes to close
)

// Missing returns the Debian packages to install before an image can be
// built: none when all tools are there.
func Missing() []string {
	var packages []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			packages = append(packages, t.debian)
		}
	}
	return packages
}

func checkTools(ctx context.Context) error {
	if packages := Missing(); len(packages) > 0 {
		return errs.New(errs.Precondition, "MISSING_TOOLS",
			"building an image needs programs that are not installed; run: apt-get install %s", strings.Join(packages, " "))
	}
	version, err := erofsVersion(ctx)
	if err != nil {
		return fmt.Errorf("ask mkfs.erofs for its version: %w", err)
	}
	if slices.Compare(version[:], minErofs[:]) < 0 {
		return errs.New(errs.Precondition, "OLD_TOOLS",
			"mkfs.erofs is version %d.%d, an image needs %d.%d or later; install a newer erofs-utils", version[0], version[1], minErofs[0], minErofs[1])
	}
	return nil
}

var erofsBanner = regexp.MustCompile(`(?m)^mkfs\.erofs\D*(\d+)\.(\d+)`)

// erofsVersion reads the banner: version 1.5 knows no option for it, but
// prints it before it complains.
func erofsVersion(ctx context.Context) ([2]int, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mkfs.erofs", "-V")
	cmd.WaitDelay = killWait
	out, err := cmd.CombinedOutput()
	m := erofsBanner.FindSubmatch(out)
	if m == nil {
		return [2]int{}, errors.Join(errors.New("it prints none"), err)
	}
	major, _ := strconv.Atoi(string(m[1])) // the expression lets only digits through
	minor, _ := strconv.Atoi(string(m[2]))
	return [2]int{major, minor}, nil
}

// runner starts the tools of a build.
type runner struct {
	echo *progress

	// isolate gives each tool process and mount namespaces of its own, which
	// needs root. The kernel then ends all its processes and mounts with it.
	isolate bool
}

// run starts a tool and waits for it. Its lines go to the progress; the last
// ones are in the error when it fails.
func (r runner) run(ctx context.Context, dir, program string, args ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, toolTimeout, fmt.Errorf("%s took more than %s", program, toolTimeout))
	defer cancel()
	out := &output{echo: r.echo}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.SysProcAttr = r.attributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	// The tool is to die with this process. The kernel ties that to the
	// thread that started it, so this one must not end earlier.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	out.flush()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", program, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w%s", program, err, out.tail())
	}
	return nil
}

// attributes put the tool into a group of its own, so that Ctrl-C reaches it
// only through the context.
func (r runner) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if r.isolate && os.Geteuid() == 0 {
		a.Cloneflags = syscall.CLONE_NEWPID
		a.Unshareflags = syscall.CLONE_NEWNS
	}
	return a
}

const (
	tailLines = 20
	lineBytes = 2000 // longer lines are cut
)

// output passes a tool's lines on and keeps the last ones. Only the goroutine
// that copies the tool's output writes to it; flush and tail come after.
type output struct {
	echo *progress
	part []byte
	last []string
}

func (o *output) Write(p []byte) (int, error) {
	for chunk := range bytes.SplitAfterSeq(p, []byte("\n")) {
		line, whole := bytes.CutSuffix(chunk, []byte("\n"))
		o.part = append(o.part, line[:min(len(line), lineBytes-len(o.part))]...)
		if whole {
			o.flush()
		}
	}
	return len(p), nil
}

func (o *output) flush() {
	line := strings.TrimRight(string(o.part), "\r ")
	o.part = o.part[:0]
	if line == "" {
		return
	}
	o.echo.line("      %s", line)
	if len(o.last) == tailLines {
		o.last = o.last[1:]
	}
	o.last = append(o.last, line)
}

// tail is the end of the output for an error's text.
func (o *output) tail() string {
	if len(o.last) == 0 {
		return ""
	}
	return "; its last output was:\n  " + strings.Join(o.last, "\n  ")
}
