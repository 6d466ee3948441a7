package httpapi

import (
	"encoding/base64"
	"net/http/httptest"
	"testing"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/sandbox"
)

// TestRequestsForgetSecrets: a request stays in memory while its client is
// connected.
func TestRequestsForgetSecrets(t *testing.T) {
	a := &server{Options: Options{Limits: sandbox.Limits{Regions: []string{"ord"}, MemoryMaxMiB: 1}}}
	r := &request{Request: httptest.NewRequest("GET", "/", nil)}
	for config, ok := range map[string]bool{
		`{"secrets": {"KEY": {"hosts": ["api.example.com"], "value": "sk-0123456789"}}}`: true,
		`{"secrets": ["sk-0123456789"]}`:                                                 false,
	} {
		r.Header.Set(api.HeaderConfig, base64.StdEncoding.EncodeToString([]byte(config)))
		spec, err := a.readSpec(r)
		if (err == nil) != ok || ok && spec.Secrets == nil {
			t.Errorf("%s: %v", config, err)
		}
		if len(r.Header) > 0 {
			t.Errorf("still there: %v", r.Header)
		}
	}
}
