package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/policy"
)

// Codes of refused allow-lists.
const (
	CodeInvalidAllowNet = "INVALID_ALLOW_NET"
	CodeOutsideCeiling  = "OUTSIDE_CEILING"
)

const policyTimeout = 10 * time.Second // for a shim to answer

// readAllowNet brings an allow-list into its normal form; nil stays nil.
func readAllowNet(entries *[]string) (*[]string, error) {
	if entries == nil {
		return nil, nil
	}
	list, err := policy.ParseList(*entries)
	if err != nil {
		return nil, badEntry(err)
	}
	normal := append([]string{}, list.Entries()...)
	return &normal, nil
}

// CheckList refuses an allow-list that is wrong.
func CheckList(allow *[]string) error {
	_, err := readAllowNet(allow)
	return err
}

func badEntry(err error) error {
	e, ok := errors.AsType[*policy.EntryError](err)
	switch {
	case !ok:
		return errs.Wrap(err, errs.Invalid, CodeInvalidAllowNet, "allow_net: it is no list of hosts")
	case e.Index < 0:
		return errs.New(errs.Invalid, CodeInvalidAllowNet, "allow_net: %s", e.Reason)
	}
	return errs.New(errs.Invalid, CodeInvalidAllowNet, "allow_net[%d]: %s", e.Index, e.Reason)
}

// Ceilings are the operator's lists: no sandbox's own list exceeds the one of
// its organisation. The zero value limits nothing. It is immutable.
type Ceilings struct {
	general *policy.List // nil is no limit
	orgs    map[string]*policy.List
}

// NewCeilings reads the operator's lists: the general one, empty for none, and
// those of single organisations by their ids. An organisation's list takes
// the place of the general one and must lie within it.
func NewCeilings(general []string, orgs map[string][]string) (Ceilings, error) {
	c := Ceilings{orgs: map[string]*policy.List{}}
	var err error
	if len(general) > 0 {
		if c.general, err = policy.ParseList(general); err != nil {
			return c, fmt.Errorf("read ceiling: %w", err)
		}
	}
	for org, entries := range orgs {
		list, err := policy.ParseList(entries)
		if err != nil {
			return c, fmt.Errorf("read ceiling of %s: %w", org, err)
		}
		if c.general != nil {
			if entry, found := c.general.Outside(list); found {
				return c, fmt.Errorf("read ceiling of %s: %q is not within the general one: an organisation's ceiling can only be narrower", org, entry)
			}
		}
		c.orgs[org] = list
	}
	return c, nil
}

// of returns an organisation's ceiling, nil for none.
func (c Ceilings) of(org string) *policy.List {
	if list, ok := c.orgs[org]; ok {
		return list
	}
	return c.general
}

// entriesOf is of as text; nil for none.
func (c Ceilings) entriesOf(org string) []string {
	if list := c.of(org); list != nil {
		return list.Entries()
	}
	return nil
}

// check holds a valid allow-list and secrets against an organisation's
// ceiling.
func (c Ceilings) check(org string, allow *[]string, secrets *Secrets) error {
	ceiling := c.of(org)
	switch {
	case ceiling == nil:
		return nil
	case allow == nil:
		return checkReach(secrets.Specs(), ceiling.Entries(), "the operator doesn't allow it")
	}
	list, err := policy.ParseList(*allow)
	if err != nil {
		return badEntry(err)
	}
	if entry, found := ceiling.Outside(list); found {
		return errs.New(errs.Invalid, CodeOutsideCeiling, "allow_net[%d]: %q is more than the operator allows: leave it out or narrow it",
			max(0, slices.Index(list.Entries(), entry)), clip(entry))
	}
	return nil
}

// destination is what an entry allows: a name or an address, on a port or, with
// port 0, on any.
type destination struct {
	name string
	addr netip.Addr
	port uint16
}

// example returns one destination that an entry in normal form allows.
func example(entry string) destination {
	if a, ok := firstAddr(entry); ok {
		return destination{addr: a}
	}
	host, port := entry, uint16(0)
	if i := strings.LastIndexByte(entry, ':'); i >= 0 {
		n, _ := strconv.ParseUint(entry[i+1:], 10, 16) // the form is normal
		host, port = entry[:i], uint16(n)
	}
	if a, ok := firstAddr(strings.NewReplacer("[", "", "]", "").Replace(host)); ok {
		return destination{addr: a, port: port}
	}
	if suffix, wild := strings.CutPrefix(host, "*."); wild {
		host = "any." + suffix
	}
	return destination{name: host, port: port}
}

// firstAddr is the first address of an address or prefix.
func firstAddr(s string) (netip.Addr, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), true
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil
}

// Network returns what a running sandbox may reach.
func (m *Manager) Network(ctx context.Context, org, id string) (api.NetworkPolicy, error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return api.NetworkPolicy{}, err
	}
	done, err := b.begin()
	if err != nil {
		return api.NetworkPolicy{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	p, err := b.shim.Policy(ctx)
	return p, b.unreachable(err)
}

// SetNetwork replaces the allow-list of a running sandbox, nil for none, and
// returns what it may reach from then on. Connections that are no longer
// allowed are cut.
func (m *Manager) SetNetwork(ctx context.Context, org, id string, allow *[]string) (api.NetworkPolicy, error) {
	b, err := m.live(ctx, org, id)
	if err != nil {
		return api.NetworkPolicy{}, err
	}
	if allow, err = readAllowNet(allow); err != nil {
		return api.NetworkPolicy{}, err
	}
	if err := m.Ceilings.check(org, allow, nil); err != nil {
		return api.NetworkPolicy{}, err
	}
	done, err := b.begin()
	if err != nil {
		return api.NetworkPolicy{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	p, err := b.shim.SetPolicy(ctx, allow)
	return p, b.unreachable(err)
}

// unreachable explains why a shim didn't answer: its sandbox ends, or it
// should have.
func (b *box) unreachable(err error) error {
	if err == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != nil {
		return errStopped(b.row.ID, b.ending.Reason)
	}
	return errs.Wrap(err, errs.Unavailable, "SANDBOX_UNREACHABLE", "the sandbox does not answer")
}
