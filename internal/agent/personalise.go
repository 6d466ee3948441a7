package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/atollhq/atoll/internal/agent/trust"
	"github.com/atollhq/atoll/internal/link"
)

// maxClockError is how far the guest's clock may be off before it is set.
const maxClockError = time.Second

// personalise makes a machine what its configuration says, with the guest's
// files below root. It returns variables for the environment of all
// processes.
//
// What the machine can be used without is only logged: a clock that cannot be
// set, say, is a property of the kind of machine.
func personalise(root string, host Host, cfg link.Config, log *slog.Logger) (map[string]string, error) {
	if err := checkConfig(cfg); err != nil {
		return nil, err
	}
	setClock(host, cfg.TimeUnixNs, log)
	// gVisor mounts memory over an empty /tmp. Temporary files belong on the
	// disk: it is larger, and full memory ends processes.
	if err := host.Unmount(filepath.Join(root, "tmp")); err != nil {
		log.Warn("unmount /tmp", "error", err)
	}
	// The agent's own binary is of no use to anyone here.
	if err := host.Unmount(filepath.Join(root, ".atoll/agent")); err != nil {
		log.Warn("unmount the agent", "error", err)
	}
	if err := setHostname(root, host, cfg.Hostname, log); err != nil {
		return nil, err
	}
	if len(cfg.Nameservers) > 0 {
		if err := writeFile(root, "etc/resolv.conf", resolvConf(cfg.Nameservers)); err != nil {
			return nil, err
		}
	}
	if err := prepareHome(root, host, cfg); err != nil {
		return nil, err
	}
	return trust.Store{Root: root, Log: log}.Set(cfg.ExtraRoots)
}

// checkConfig refuses what would break the files that it is written to.
func checkConfig(cfg link.Config) error {
	for _, ns := range cfg.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			return fmt.Errorf("nameserver: %w", err)
		}
	}
	if !filepath.IsAbs(cfg.Home) {
		return fmt.Errorf("home %q is not an absolute path", cfg.Home)
	}
	return nil
}

// setHostname names the machine; an empty name leaves it as it is.
func setHostname(root string, host Host, name string, log *slog.Logger) error {
	if name == "" {
		return nil
	}
	if strings.ContainsAny(name, " \t\r\n/\x00") {
		return fmt.Errorf("host name %q has characters that no host name has", name)
	}
	if err := host.SetHostname(name); err != nil {
		log.Warn("set host name", "error", err)
	}
	if err := writeFile(root, "etc/hostname", name+"\n"); err != nil {
		return err
	}
	return writeFile(root, "etc/hosts", hosts(name))
}

func setClock(host Host, unixNs int64, log *slog.Logger) {
	if unixNs == 0 {
		return
	}
	want := time.Unix(0, unixNs)
	if off := host.Now().Sub(want).Abs(); off <= maxClockError {
		return
	}
	if err := host.SetTime(want); err != nil {
		log.Warn("set clock", "error", err)
	}
}

// hosts resolves the machine's own name without a question to the network:
// sudo asks for it each time.
func hosts(name string) string {
	return "127.0.0.1\tlocalhost\n" +
		"127.0.1.1\t" + name + "\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n"
}

func resolvConf(nameservers []string) string {
	var b strings.Builder
	for _, ns := range nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	return b.String()
}

// writeFile replaces a file, also one that is a symbolic link in the image.
func writeFile(root, name, content string) error {
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink != 0 {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// prepareHome makes the home directory the user's.
func prepareHome(root string, host Host, cfg link.Config) error {
	home := filepath.Join(root, cfg.Home)
	info, err := os.Stat(home)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(home, 0o755); err == nil {
			info, err = os.Stat(home)
		}
	}
	if err != nil {
		return fmt.Errorf("prepare home: %w", err)
	}
	if ownedBy(info, cfg.UserID, cfg.GroupID) {
		return nil
	}
	if err := host.Chown(home, int(cfg.UserID), int(cfg.GroupID)); err != nil {
		return fmt.Errorf("prepare home: %w", err)
	}
	return nil
}

func ownedBy(info os.FileInfo, uid, gid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid && st.Gid == gid
}
