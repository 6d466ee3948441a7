package microvm

import "time"

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// measureTSC returns the counter's frequency in kHz, to about 1 in 10,000.
// QEMU's translated guests see the host's counter and have no other clock to
// measure it with.
func measureTSC() int {
	const window = 20 * time.Millisecond
	began, first := time.Now(), rdtsc()
	time.Sleep(window)
	ticks, took := rdtsc()-first, time.Since(began)
	return int(float64(ticks) / took.Seconds() / 1000)
}
