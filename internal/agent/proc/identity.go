package proc

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// GroupFile lists groups and their members.
const GroupFile = "/etc/group"

// credential makes a child run as the configured user, with the groups that
// /etc/group lists for it. It is nil when this process is that user already.
func credential(cfg Config, groupFile string) *syscall.Credential {
	if os.Getuid() == int(cfg.UID) && os.Getgid() == int(cfg.GID) {
		return nil
	}
	return &syscall.Credential{Uid: cfg.UID, Gid: cfg.GID, Groups: Groups(cfg.User, groupFile)}
}

// Groups lists a user's supplementary groups. A missing or odd file means
// none.
func Groups(user, groupFile string) []uint32 {
	if user == "" {
		return nil // an empty list of members is not a list of somebody without a name
	}
	f, err := os.Open(groupFile)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var ids []uint32
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		part := strings.Split(lines.Text(), ":") // name:password:gid:members
		if len(part) != 4 || !slices.Contains(strings.Split(part[3], ","), user) {
			continue
		}
		if id, err := strconv.ParseUint(part[2], 10, 32); err == nil {
			ids = append(ids, uint32(id))
		}
	}
	return ids
}
