//go:build e2e

package egress

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/atollhq/atoll/test/e2e/harness"
)

var signed = regexp.MustCompile(`Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})`)

// verifySigned verifies the signature of a request as AWS does (Signature
// Version 4): the request must be one without a query.
func verifySigned(t *testing.T, requests []harness.Request, key string) {
	t.Helper()
	if len(requests) == 0 {
		return
	}
	r := requests[0]
	m := signed.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		t.Errorf("not signed: %s", r)
		return
	}
	scope, names, signature := m[2], m[3], m[4]
	canonical := r.Method + "\n" + r.Target + "\n\n"
	for name := range strings.SplitSeq(names, ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical += name + ":" + strings.TrimSpace(value) + "\n"
	}
	canonical += "\n" + names + "\n" + r.Header.Get("X-Amz-Content-Sha256")
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + digest(canonical)
	derived := []byte("AWS4" + key)
	for part := range strings.SplitSeq(scope, "/") {
		derived = sum(derived, part)
	}
	if want := hex.EncodeToString(sum(derived, text)); want != signature {
		t.Errorf("signed with something else: want %s: %s", want, r)
	}
	if r.Header.Get("X-Amz-Content-Sha256") != digest(string(r.Body)) {
		t.Errorf("the body is not the one that was signed: %s", r)
	}
}

func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func sum(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum(nil)
}
