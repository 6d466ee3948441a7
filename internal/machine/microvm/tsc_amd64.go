package microvm

import "time"

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// measureTSC returns the counter's frequency in kHz, to about 1 in 10,000.
// QEMU's translated guests see the host's counter and have no other clock to
// measure it with.
func measureTSC() int {
	const window = 50 * time.Millisecond
	first, began := readClocks()
	time.Sleep(window)
	last, ended := readClocks()
	return int(float64(last-first) / ended.Sub(began).Seconds() / 1000)
}

// readClocks reads both clocks at the same time: of several tries, the one in
// which least came between.
func readClocks() (ticks uint64, at time.Time) {
	best := ^uint64(0)
	for range 16 {
		before := rdtsc()
		now := time.Now()
		if took := rdtsc() - before; took < best {
			best, ticks, at = took, before+took/2, now
		}
	}
	return ticks, at
}
