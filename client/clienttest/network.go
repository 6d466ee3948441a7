package clienttest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/atollhq/atoll/api"
)

func policyOf(c api.SandboxConfig) api.NetworkPolicy {
	p := api.NetworkPolicy{AllowNet: c.AllowNet}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		p.Secrets = append(p.Secrets, api.NetworkSecret{Name: name, Hosts: c.Secrets[name].Hosts})
	}
	return p
}

// Secret returns the value of a sandbox's secret as it arrived.
func (s *Server) Secret(id, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb := s.sandboxes[id]; sb != nil {
		return sb.secrets[name].Value
	}
	return ""
}

// Record adds a record to a sandbox's audit.
func (s *Server) Record(id string, r api.AuditRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb := s.sandboxes[id]; sb != nil {
		r.Sandbox = id
		sb.records = append(sb.records, r)
		sb.tell()
	}
}

// tell wakes those who follow. The server's mutex is held.
func (sb *sandbox) tell() {
	close(sb.changed)
	sb.changed = make(chan struct{})
}

func (s *Server) network(w http.ResponseWriter, r *http.Request) {
	if sb := s.find(w, r); sb != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(sb.policy)
	}
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request) {
	sb := s.find(w, r)
	if sb == nil {
		return
	}
	var patch api.PatchSandbox
	if json.NewDecoder(r.Body).Decode(&patch) != nil || patch.StopAtMS == nil && !patch.AllowNet.Given && !patch.IdlePause.Given && patch.IdlePauseToDisk == nil {
		fail(w, http.StatusBadRequest, "INVALID_BODY", "there is nothing to change.")
		return
	}
	var out api.PatchSandboxResult
	if patch.StopAtMS != nil {
		out.StopAtMS = *patch.StopAtMS
	}
	if list := patch.AllowNet.List; list != nil && slices.ContainsFunc(*list, isNoHost) {
		fail(w, http.StatusBadRequest, "INVALID_ALLOW_NET", "allow_net: it is no list of hosts.")
		return
	}
	if patch.AllowNet.Given {
		s.mu.Lock()
		sb.policy.AllowNet = patch.AllowNet.List
		policy := sb.policy
		s.mu.Unlock()
		out.Network = &policy
	}
	if patch.IdlePause.Given || patch.IdlePauseToDisk != nil {
		s.setIdle(sb, patch, &out)
	}
	_ = json.NewEncoder(w).Encode(out)
}

func isNoHost(entry string) bool { return entry == "" || strings.ContainsAny(entry, " /") }

func (s *Server) audit(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	sb := s.sandboxes[r.PathValue("id")]
	s.mu.Unlock()
	if sb == nil {
		fail(w, http.StatusNotFound, "SANDBOX_NOT_FOUND", "There is no sandbox "+r.PathValue("id")+".")
		return
	}
	since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("since"))
	w.Header().Set("Content-Type", "application/x-ndjson")
	for sent := 0; ; {
		s.mu.Lock()
		records, changed := sb.records[sent:], sb.changed
		over := sb.info.Status == api.StatusStopped || r.URL.Query().Get("follow") == ""
		s.mu.Unlock()
		for _, record := range records {
			if !record.Time.Before(since) {
				_ = json.NewEncoder(w).Encode(record)
			}
		}
		sent += len(records)
		_ = http.NewResponseController(w).Flush()
		if over {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}
