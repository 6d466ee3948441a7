package rpc

import (
	"time"

	"github.com/atollhq/atoll/api"
)

// Limits bound what one connection can use. A zero field has its default.
type Limits struct {
	MaxMessage   int    // bytes in one message from the client; default api.MaxClientMessage
	Calls        int    // calls that run at once; beyond, reading stops; default 8192
	CallBytes    int64  // bytes of the messages of running calls; default 256 MiB, one message always fits
	Streams      int    // streams from the client open at once; default 10,000
	StreamMemory int64  // bytes kept in memory per stream; default 4 MiB
	ConnMemory   int64  // bytes kept in memory for all streams; default 64 MiB
	StreamSpill  int64  // bytes kept in a file per stream; default 1 GiB
	SpillDir     string // where those files are; default os.TempDir()

	// ClaimWait is how long a stream that is full may wait for the call that
	// uses it; default 5 s.
	ClaimWait time.Duration
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxMessage, api.MaxClientMessage)
	setDefault(&l.Calls, 8192)
	setDefault(&l.CallBytes, 256<<20)
	setDefault(&l.Streams, 10_000)
	setDefault(&l.StreamMemory, 4<<20)
	setDefault(&l.ConnMemory, 64<<20)
	setDefault(&l.StreamSpill, 1<<30)
	setDefault(&l.ClaimWait, 5*time.Second)
	return l
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}
