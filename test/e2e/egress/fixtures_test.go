// Package egress proves, from inside real sandboxes, that nothing leaves
// unless it is allowed and that secrets are used without being read.
//
// Each row of docs/threat-model.md's two tables of ways out is a fixture here,
// under the same id; TestTablesMatch holds the two together. An evasion is
// judged by what reached the fake internet, never by what the guest saw. Each
// script also runs in a sandbox with an open policy, where it has to succeed:
// that is the proof that it attacks.
package egress

// evasion is one way out.
type evasion struct {
	id     string
	attack string // as in the threat model
	in     scene
	root   bool   // the script runs as root
	script string // Python after guest.py, or a shell script after "#!"

	arrives         []string // what must have arrived all the same
	never           string   // pattern of what must not arrive; empty is the word "evil", and anything at hosts that nobody may reach
	prints          string   // pattern of what the script prints
	ownKernelPrints string   // the same, where the guest has a kernel of its own; empty is as elsewhere

	// With the open policy, open is a pattern of what arrives; empty is the
	// word "evil". Where the script can't succeed there either, blunt says why.
	open, blunt string
}

// scene is a sandbox's configuration.
type scene string

const (
	listed  scene = "listed"  // an allow-list
	none    scene = "none"    // an empty one
	open    scene = "open"    // the open internet
	strict  scene = "strict"  // an allow-list where all TLS is opened
	secrets scene = "secrets" // the open internet, and a secret
)

// evasions are all ways out.
func evasions() []evasion {
	var all []evasion
	for _, some := range [][]evasion{nameRows, helloRows, httpRows, http2Rows, insideRows, startRows, dnsRows, addressRows, packetRows} {
		all = append(all, some...)
	}
	return all
}
