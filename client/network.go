package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/atollhq/atoll/api"
)

// Network returns what a running sandbox may reach.
func (s *Sandboxes) Network(ctx context.Context, id string) (*api.NetworkPolicy, error) {
	var out api.NetworkPolicy
	if err := s.client.do(ctx, http.MethodGet, s.url(id)+"/network", nil, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// SetNetwork replaces the hosts that a running sandbox may reach, nil for no
// restriction, and returns what it may reach from then on. Connections that
// are no longer allowed are cut.
func (s *Sandboxes) SetNetwork(ctx context.Context, id string, allow *[]string) (*api.NetworkPolicy, error) {
	var granted api.PatchSandboxResult
	patch := api.PatchSandbox{AllowNet: api.OptionalList{Given: true, List: allow}}
	if err := s.client.do(ctx, http.MethodPatch, s.url(id), patch, &granted); err != nil {
		return nil, err
	}
	if granted.Network == nil {
		return nil, fmt.Errorf("read the server's answer: it says nothing of the network")
	}
	return granted.Network, nil
}

func (s *Sandboxes) url(id string) string { return s.client.sandboxURL.String() + sandboxPath(id) }

// AuditOptions says which records Audit yields.
type AuditOptions struct {
	Follow bool      // go on with new records until the sandbox has stopped
	Since  time.Time // only those that ended later; zero is all
}

// maxRecord bounds a record in bytes.
const maxRecord = 1 << 20

// Audit yields what a sandbox did and tried on the network, oldest first, also
// after it has stopped. The iteration ends after the first error. Leaving it
// early ends the request.
func (s *Sandboxes) Audit(ctx context.Context, id string, o AuditOptions) iter.Seq2[api.AuditRecord, error] {
	return func(yield func(api.AuditRecord, error) bool) {
		resp, err := s.client.send(ctx, http.MethodGet, s.url(id)+"/audit?"+o.query(), nil)
		if err != nil {
			yield(api.AuditRecord{}, err)
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxRecord)
		for lines.Scan() {
			record, err := decodeRecord(lines.Bytes())
			if !yield(record, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(api.AuditRecord{}, fmt.Errorf("read the audit: %w", err))
		}
	}
}

func (o AuditOptions) query() string {
	query := url.Values{}
	if o.Follow {
		query.Set("follow", "1")
	}
	if !o.Since.IsZero() {
		query.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	return query.Encode()
}

func decodeRecord(line []byte) (api.AuditRecord, error) {
	var record api.AuditRecord
	if err := json.Unmarshal(line, &record); err != nil {
		return api.AuditRecord{}, fmt.Errorf("read the audit: %w", err)
	}
	return record, nil
}
