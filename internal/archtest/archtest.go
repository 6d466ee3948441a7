// Package archtest keeps the shape of the code base: which package may import
// which, that each says why it exists, and that none is called "util".
//
// It holds only tests. A failure names the rule and its reason; where the
// reason no longer holds, change the table here together with
// docs/ARCHITECTURE.md.
package archtest
