//go:build e2e

// Command bench measures Atoll's figures on this host, in one run, and prints
// them as one table (`make bench`). What is compared is measured in turns, so
// that a noisy machine is noisy for both sides. Quote medians and ratios.
//
// Each figure is one file of this package. ATOLL_BENCH_ONLY selects figures by
// name, separated by commas; ATOLL_BENCH_RUNS changes how often the repeated
// ones are repeated.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/test/e2e/harness"
)

// limit bounds the whole run.
const limit = 30 * time.Minute

// row is one line of the table.
type row struct{ what, value, beside, ratio string }

// bench is what the figures share.
type bench struct {
	server *harness.Server
	client *client.Client
	runs   int
	rows   []row
}

func (b *bench) add(what, value, beside, ratio string) {
	b.rows = append(b.rows, row{what, value, beside, ratio})
	fmt.Fprintf(os.Stderr, "  %s: %s  %s  %s\n", what, value, beside, ratio)
}

// figures in the order of the table.
var figures = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"create", createFigure},
	{"burst", burstFigure},
	{"calls", callsFigure},
	{"files", filesFigure},
	{"memory", memoryFigure},
	{"transfer", transferFigure},
	{"connections", connectionsFigure},
	{"policy", policyFigure},
	{"search", searchFigure},
	{"opened", openedFigure},
	{"microvm", microvmFigure},
	{"power", powerFigure},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	if told := os.Getenv(visitVariable); told != "" {
		return visitorMain(told) // in a guest
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	server, err := harness.Start(ctx, "--max-sandboxes", "500", "--log-level", "warn")
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	c, err := client.New(client.Options{Endpoint: server.URL, Token: server.Token})
	if err != nil {
		return err
	}
	b := &bench{server: server, client: c, runs: repetitions()}
	defer b.print()
	for _, f := range figures {
		if !selected(f.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "==", f.name)
		if err := f.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

func repetitions() int {
	if n, err := strconv.Atoi(os.Getenv("ATOLL_BENCH_RUNS")); err == nil && n > 0 {
		return n
	}
	return 100
}

func selected(name string) bool {
	only := os.Getenv("ATOLL_BENCH_ONLY")
	return only == "" || slices.Contains(strings.Split(only, ","), name)
}

func (b *bench) print() {
	fmt.Printf("\n%d cores, %s, %d repetitions\n\n", runtime.NumCPU(), runtime.GOARCH, b.runs)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tAtoll\tbeside\tratio")
	for _, r := range b.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.what, r.value, r.beside, r.ratio)
	}
	_ = w.Flush()
}

// percentile of sorted durations, p in percent.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func sorted(d []time.Duration) []time.Duration {
	out := slices.Clone(d)
	slices.Sort(out)
	return out
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
}

func spread(d []time.Duration) string {
	s := sorted(d)
	return fmt.Sprintf("p50 %s, p95 %s, p99 %s", ms(percentile(s, 50)), ms(percentile(s, 95)), ms(percentile(s, 99)))
}

func ratio(a, b []time.Duration) string {
	other := percentile(sorted(b), 50)
	if other == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f (p50)", float64(percentile(sorted(a), 50))/float64(other))
}

func rate(bytes int, d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(bytes)/1e6/d.Seconds())
}
