package names

import "errors"

// State is what a table knows, for the table of a machine that continues where
// this one's machine stood: code inside goes on using the addresses, which
// must not come to stand for other names.
type State struct {
	Next  uint32  `json:"next"`            // the slot that was given last
	Names []Named `json:"names,omitempty"` // the least recently used first
}

// Named is a name and the slot of its addresses.
type Named struct {
	Name string `json:"name"`
	Slot uint32 `json:"slot"`
}

// State returns a copy of what the table knows.
func (t *Table) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := State{Next: t.next}
	for _, name := range t.byName.Keys() {
		slot, _ := t.byName.Peek(name)
		st.Names = append(st.Names, Named{name, slot})
	}
	return st
}

var errState = errors.New("names: a state that no table has")

// Continue makes an empty table know what another did. If that were more
// names than it remembers, the least recently used are forgotten.
func (t *Table) Continue(st State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName.Len() > 0 || st.Next > slots {
		return errState
	}
	for _, n := range st.Names {
		_, taken := t.bySlot[n.Slot]
		if taken || t.byName.Contains(n.Name) || n.Slot < 1 || n.Slot > slots {
			return errState
		}
		t.byName.Add(n.Name, n.Slot)
		t.bySlot[n.Slot] = n.Name
	}
	t.next = st.Next
	return nil
}
