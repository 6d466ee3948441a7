package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/atollhq/atoll/internal/errs"
	"github.com/atollhq/atoll/internal/gateway/audit"
)

func (a *server) getNetwork(w http.ResponseWriter, r *request) error {
	policy, err := a.Sandboxes.Network(r.Context(), r.identity.Org, r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, policy)
}

// auditQuery is what of the audit is asked for.
type auditQuery struct {
	follow bool
	since  time.Time // zero is everything
}

func readAuditQuery(r *request) (q auditQuery, err error) {
	given := r.URL.Query()
	if text := given.Get("follow"); text != "" {
		if q.follow, err = strconv.ParseBool(text); err != nil {
			return q, errs.New(errs.Invalid, "INVALID_FILTER", "follow must be 1 or 0")
		}
	}
	if text := given.Get("since"); text != "" {
		if q.since, err = time.Parse(time.RFC3339, text); err != nil {
			return q, errs.New(errs.Invalid, "INVALID_FILTER", "since must be a time such as 2006-01-02T15:04:05Z")
		}
	}
	return q, nil
}

// readAudit answers with the record of a sandbox's network. It holds one line
// at a time; a caller that doesn't read holds up nobody else.
func (a *server) readAudit(w http.ResponseWriter, r *request) error {
	q, err := readAuditQuery(r)
	if err != nil {
		return err
	}
	files, err := a.Sandboxes.AuditFiles(r.Context(), r.identity.Org, r.PathValue("id"))
	if err != nil {
		return err
	}
	reader, err := audit.OpenReader(files.Current, files.Older, q.follow)
	if err != nil {
		return err
	}
	defer reader.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	s := &auditStream{auditQuery: q, in: reader, control: http.NewResponseController(w)}
	s.out = bufio.NewWriterSize(patient{w, s.extend}, 32<<10)
	return s.run(r.Context(), files.Ended)
}

// auditStream carries lines from the files to one caller.
type auditStream struct {
	auditQuery
	in      *audit.Reader
	out     *bufio.Writer
	control *http.ResponseController
}

// pollEvery is how often somebody who follows hears of new records.
const pollEvery = 200 * time.Millisecond

// run returns when the caller has left, or has everything: when nothing more
// comes, or at once for who doesn't follow.
func (s *auditStream) run(ctx context.Context, ended <-chan struct{}) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for last := !s.follow; ; {
		if err := s.send(); errors.Is(err, errLeft) {
			return nil
		} else if err != nil || last {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			last = true // what was written before its end is still to be read
		case <-poll.C:
		}
	}
}

var errLeft = errors.New("the caller takes nothing any more")

// send sends what there is.
func (s *auditStream) send() error {
	s.extend()
	for {
		line, err := s.in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !s.wants(line) {
			continue
		}
		if _, err := s.out.Write(line); err != nil {
			return errLeft
		}
	}
	if s.out.Flush() != nil || s.control.Flush() != nil {
		return errLeft
	}
	return nil
}

// wants reports whether a record ended late enough.
func (s *auditStream) wants(line []byte) bool {
	if s.since.IsZero() {
		return true
	}
	var r audit.Record
	if json.Unmarshal(line, &r) != nil {
		return false
	}
	return !r.Time.Add(time.Duration(r.Millis) * time.Millisecond).Before(s.since)
}

// extend gives the caller time anew.
func (s *auditStream) extend() { _ = s.control.SetWriteDeadline(time.Now().Add(answerTimeout)) }

// patient is w with time for each piece.
type patient struct {
	io.Writer
	extend func()
}

func (p patient) Write(b []byte) (int, error) {
	p.extend()
	return p.Writer.Write(b)
}
