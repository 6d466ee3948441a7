package shim

import (
	"context"
	"errors"
	"testing"

	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// templated is a machine of which only its start is known.
type templated struct {
	machine.Machine
	from bool
}

func (m templated) FromTemplate() bool { return m.from }

func TestTemplateFailed(t *testing.T) {
	template, failure := &machine.Snapshot{Dir: "/t"}, errors.New("no answer")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx      context.Context
		template *machine.Snapshot
		machine  machine.Machine
		failure  error
		want     bool
	}{
		"started from it":          {t.Context(), template, templated{from: true}, nil, false},
		"booted instead":           {t.Context(), template, templated{}, nil, true},
		"silent after it":          {t.Context(), template, templated{from: true}, failure, true},
		"told to stop meanwhile":   {over, template, templated{from: true}, failure, false},
		"booted, silent":           {t.Context(), template, templated{}, failure, false},
		"no machine at all":        {t.Context(), template, nil, failure, false},
		"none given":               {t.Context(), nil, templated{}, nil, false},
		"a driver that knows none": {t.Context(), template, struct{ machine.Machine }{}, nil, false},
	} {
		s := &Shim{spec: wire.Spec{Template: c.template}, first: c.machine}
		if got := s.templateFailed(c.ctx, c.failure); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
