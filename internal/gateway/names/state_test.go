package names

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestContinue: each address stands for what it stood for, and new names get
// addresses that none had.
func TestContinue(t *testing.T) {
	table := NewTable(4)
	for i := range 6 {
		table.Assign(fmt.Sprint(i))
	}
	table.Assign("2") // 3 is now the least recently used
	raw, err := json.Marshal(table.State())
	if err != nil {
		t.Fatal(err)
	}
	var st State
	if err := json.Unmarshal(raw, &st); err != nil {
		t.Fatal(err)
	}
	other := NewTable(4)
	if err := other.Continue(st); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table.State(), other.State()); diff != "" {
		t.Error(diff)
	}
	for _, table := range []*Table{table, other} {
		v4, v6 := table.Assign("new")
		if slot, _ := slotOf(v4); slot != 7 {
			t.Errorf("the new name has slot %d", slot)
		}
		if name, ok := table.Lookup(v6); !ok || name != "new" {
			t.Errorf("%s, %v", name, ok)
		}
	}
	if diff := cmp.Diff(table.State(), other.State()); diff != "" {
		t.Errorf("they forgot different names: %s", diff)
	}
}

func TestContinueForgetsTheLeastUsed(t *testing.T) {
	table := NewTable(4)
	for i := range 4 {
		table.Assign(fmt.Sprint(i))
	}
	small := NewTable(2)
	if err := small.Continue(table.State()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Named{{"2", 3}, {"3", 4}}, small.State().Names); diff != "" {
		t.Error(diff)
	}
	if len(small.bySlot) != 2 {
		t.Errorf("%d addresses", len(small.bySlot))
	}
}

func TestContinueRefuses(t *testing.T) {
	for name, st := range map[string]State{
		"slot 0":                {Names: []Named{{"a", 0}}},
		"a slot beyond the end": {Names: []Named{{"a", slots + 1}}},
		"one slot for two":      {Names: []Named{{"a", 1}, {"b", 1}}},
		"one name twice":        {Names: []Named{{"a", 1}, {"a", 2}}},
		"next beyond the end":   {Next: slots + 1},
	} {
		if err := NewTable(4).Continue(st); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	used := NewTable(4)
	used.Assign("a")
	if err := used.Continue(State{}); err == nil {
		t.Error("a table that is in use continues another")
	}
}
