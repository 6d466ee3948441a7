package shim

import (
	"github.com/atollhq/atoll/internal/gateway"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

// Enforcer is a gateway as a shim uses it.
type Enforcer struct{ *gateway.Gateway }

var _ Gateway = Enforcer{}

// SetSecrets does nothing: no connection is opened in this version, so that
// placeholders leave as they are.
func (Enforcer) SetSecrets(*secret.Set) {}

// CAPEM is empty: there is no authority where no connection is opened.
func (Enforcer) CAPEM() string { return "" }
