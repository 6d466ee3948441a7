// Package private keeps what a process knows to itself. The server and the
// shims hold secrets in their memory, and only there: no dump of it is
// written, nobody but the host's root may look into it, and no library writes
// what it has read to standard error, which is a file.
package private

import (
	"errors"
	"io"
	"log"

	"golang.org/x/sys/unix"
)

// Process applies to the process for the rest of its life. Programs that it
// starts dump no memory either, and are their own in everything else.
func Process() error {
	log.SetOutput(io.Discard) // net/http quotes servers there
	return errors.Join(
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), // also where dumps are piped, which no limit stops
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
	)
}
