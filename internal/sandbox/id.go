package sandbox

import (
	"crypto/rand"
	"regexp"
)

// idAlphabet leaves out the letters that are mistaken for others: i, l, o.
const idAlphabet = "0123456789abcdefghjkmnpqrstuvwxyz"

const idRandom = 20 // characters

var idPattern = regexp.MustCompile(`^sbx_[a-z]{3}_[0-9a-hjkmnp-z]{20}$`)

// NewID returns a fresh sandbox id in a region. It holds about 100 random
// bits.
func NewID(region string) string {
	return "sbx_" + region + "_" + randomText(idRandom)
}

// ValidID reports whether s has the form of a sandbox id. Only such text ever
// becomes part of a path.
func ValidID(s string) bool { return idPattern.MatchString(s) }

func randomText(n int) string {
	const usable = 256 - 256%len(idAlphabet) // bytes from here on would be biased
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			if int(b) < usable && len(out) < n {
				out = append(out, idAlphabet[int(b)%len(idAlphabet)])
			}
		}
	}
	return string(out)
}

// hostname is the machine's host name: the id without what host names may not
// hold.
func hostname(id string) string { return "sbx-" + id[len(id)-idRandom:] }
