package clienttest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/atollhq/atoll/api"
)

// read reads an optional JSON body.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "INVALID_BODY", "The body is malformed.")
	}
	return err == nil
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request) {
	sb := s.find(w, r)
	var body api.PauseRequest
	if sb == nil || !read(w, r, &body) {
		return
	}
	out := api.PauseResult{Power: api.PowerPaused}
	if body.ToDisk {
		out = api.PauseResult{Power: api.PowerSuspended, Bytes: 3 << 20, StoodStillMS: 5}
	}
	left := time.Minute.Milliseconds()
	s.mu.Lock()
	sb.info.Power, sb.info.PausedAt = out.Power, &api.Date{Time: time.Now()}
	if sb.info.StopAt != nil {
		sb.info.StopAt, sb.info.RemainingMS = nil, &left
	}
	s.mu.Unlock()
	if body.ToDisk {
		s.CloseConns(sb.info.ID, 1001, "sandbox paused")
	}
	_ = json.NewEncoder(w).Encode(out)
}

// wake resumes a sandbox for whoever says something to it.
func (s *Server) wake(sb *sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb.info.Power, sb.info.PausedAt = api.PowerRunning, nil
	if left := sb.info.RemainingMS; left != nil {
		sb.info.StopAt, sb.info.RemainingMS = &api.Date{Time: time.Now().Add(time.Duration(*left) * time.Millisecond)}, nil
	}
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request) {
	if sb := s.find(w, r); sb != nil {
		s.wake(sb)
		s.get(w, r)
	}
}

// fork makes children with a copy of the parent's files.
func (s *Server) fork(w http.ResponseWriter, r *http.Request) {
	parent := s.find(w, r)
	var body api.ForkRequest
	if parent == nil || !read(w, r, &body) {
		return
	}
	count := 1
	if body.Count != nil {
		count = *body.Count
	}
	if count < 1 || count > api.DefaultMaxForks {
		fail(w, http.StatusBadRequest, "FORK_COUNT_OUT_OF_RANGE", fmt.Sprintf("count is %d and must lie between 1 and %d", count, api.DefaultMaxForks))
		return
	}
	out := []api.Sandbox{}
	for range count {
		child, err := s.child(parent, body)
		if err != nil {
			fail(w, http.StatusInternalServerError, "INTERNAL_ERROR", err.Error())
			return
		}
		out = append(out, child)
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Server) child(parent *sandbox, body api.ForkRequest) (api.Sandbox, error) {
	config := api.SandboxConfig{Labels: parent.info.Labels, Timeout: body.Timeout}
	if body.Labels != nil {
		config.Labels = body.Labels
	}
	if config.Timeout == "" && parent.info.Timeout == "duration" {
		config.Timeout = "60s"
	}
	sb, err := s.add(config)
	if err != nil {
		return api.Sandbox{}, err
	}
	s.mu.Lock()
	sb.info.ForkedFrom = parent.info.ID
	maps.Copy(sb.env, parent.env)
	info := sb.info
	s.mu.Unlock()
	return info, os.CopyFS(filepath.Join(sb.root, home), os.DirFS(filepath.Join(parent.root, home)))
}

func (s *Server) setIdle(sb *sandbox, patch api.PatchSandbox, out *api.PatchSandboxResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if patch.IdlePause.Given {
		sb.info.IdlePause = patch.IdlePause.Text
	}
	if patch.IdlePauseToDisk != nil {
		sb.info.IdlePauseToDisk = *patch.IdlePauseToDisk
	}
	disk := sb.info.IdlePauseToDisk
	out.IdlePause, out.IdlePauseToDisk = api.OptionalText{Given: true, Text: sb.info.IdlePause}, &disk
}
