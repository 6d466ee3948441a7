package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
)

type auditOptions struct {
	*global
	id     string
	follow bool
	since  string
}

func newAudit(g *global, io IO) *cobra.Command {
	o := &auditOptions{global: g}
	cmd := &cobra.Command{
		Use:   "audit <id>",
		Short: "Show what a sandbox did and tried on the network",
		Long: `Audit shows what a sandbox did and tried on the network: its connections when
they have ended, requests where the gateway reads them, and refused names. It
works while the sandbox runs and, for some time, after it has stopped.

A line says when something began (in UTC), what was decided, about what, and
in parentheses the rule that said so: the entry of the allow-list, or why it
was refused. What happens often is shown once more with a count.

With --follow it goes on until the sandbox has stopped. With --json it prints
one object per line, with the fields that docs/protocol.md describes.`,
		Example: `  atoll audit sbx_ord_0123456789abcdefghjk --follow
  atoll audit sbx_ord_0123456789abcdefghjk --json | jq 'select(.decision == "refuse")'`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.id = a[0]
			return runAudit(cmd.Context(), o, io)
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVar(&o.since, "since", "", `only what ended later, like "10m" ago or "2006-01-02T15:04:05Z"`)
	return cmd
}

func runAudit(ctx context.Context, o *auditOptions, io IO) error {
	since, err := parseSince(o.since, time.Now())
	if err != nil {
		return err
	}
	c, err := o.client(io.Getenv)
	if err != nil {
		return err
	}
	show := showRecord
	if o.json {
		show = jsonRecord
	}
	begun := o.json
	for record, err := range c.Sandboxes.Audit(ctx, o.id, client.AuditOptions{Follow: o.follow, Since: since}) {
		if ctx.Err() != nil {
			return &exitError{code: exitInterrupted}
		}
		if err != nil {
			return err
		}
		if !begun {
			fmt.Fprintln(io.Out, recordHeader)
			begun = true
		}
		if _, err := fmt.Fprintln(io.Out, show(record)); err != nil {
			return err
		}
	}
	return nil
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usage(`--since: say how long ago, like "10m", or when, like "2006-01-02T15:04:05Z"`)
	}
	return t, nil
}

const recordFormat = "%-20s  %-6s  %-8s  %-24s  %s"

var recordHeader = fmt.Sprintf(recordFormat, "TIME", "", "PROTOCOL", "DESTINATION", "WHAT")

// showRecord is a record as a line of a table. Most of its text is the
// sandbox's: it must neither steer the terminal nor look like another line.
func showRecord(r api.AuditRecord) string {
	return fmt.Sprintf(recordFormat, r.Time.UTC().Format(time.RFC3339), cell(r.Decision), cmp.Or(cell(r.Protocol), "-"), destination(r), what(r))
}

func destination(r api.AuditRecord) string {
	host := cell(r.Name)
	if host == "" && r.Addr.IsValid() {
		host = r.Addr.String()
	}
	switch {
	case host == "":
		return "-"
	case r.Port == 0:
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.Port)))
}

// what is the end of the line: the request, the rule, and what else there is,
// what matters most first.
func what(r api.AuditRecord) string {
	var out []string
	if r.Method != "" || r.Path != "" {
		request := strings.TrimSpace(cell(r.Method) + " " + cell(r.Path))
		if r.Status != 0 {
			request += " " + strconv.Itoa(r.Status)
		}
		out = append(out, request)
	}
	if r.Kind != api.AuditRequest || r.Decision != api.AuditAllow { // an allowed request's rule is its connection's
		out = append(out, "("+cell(r.Rule)+")")
	}
	if len(r.Secrets) > 0 {
		out = append(out, "secrets: "+cell(strings.Join(r.Secrets, ", ")))
	}
	if r.Note != "" {
		out = append(out, cell(r.Note))
	}
	if r.Count > 1 && r.Kind != api.AuditLost {
		out = append(out, fmt.Sprintf("%d times", r.Count))
	}
	return strings.Join(append(out, amounts(r)...), "  ")
}

// amounts says how much was sent and received, if anything was.
func amounts(r api.AuditRecord) []string {
	var out []string
	if r.Sent > 0 {
		out = append(out, "sent "+size(float64(r.Sent)))
	}
	if r.Received > 0 {
		out = append(out, "received "+size(float64(r.Received)))
	}
	if len(out) == 0 {
		return nil
	}
	return []string{strings.Join(out, ", ")}
}

// cell keeps text that a sandbox may have chosen in its place on the line.
func cell(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// jsonRecord is a record as JSON, in which characters that may steer a
// terminal are escaped, also those that JSON would take as they are.
func jsonRecord(r api.AuditRecord) string {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(r) // a record always encodes
	var out strings.Builder
	for _, c := range strings.TrimSpace(line.String()) {
		if unicode.IsPrint(c) {
			out.WriteRune(c)
			continue
		}
		for _, unit := range utf16.Encode([]rune{c}) {
			fmt.Fprintf(&out, `\u%04x`, unit)
		}
	}
	return out.String()
}
