package sign

import (
	"crypto/hmac"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// AWSConfig is a pair of keys for AWS Signature Version 4, and what stands for
// it in the guest.
type AWSConfig struct {
	KeyID, Secret, SessionToken string // the real ones; SessionToken is empty for keys that last

	PlaceholderKeyID, PlaceholderSecret, PlaceholderToken string
}

// Format keeps keys out of every text.
func (AWSConfig) Format(f fmt.State, _ rune) { hide(f) }

// LogValue keeps keys out of every log.
func (AWSConfig) LogValue() slog.Value { return hiddenValue }

// AWS signs with Signature Version 4.
type AWS struct {
	cfg    AWSConfig
	now    func() time.Time
	budget budget
}

// NewAWS returns a signer. A configuration without placeholders signs nothing.
func NewAWS(cfg AWSConfig) *AWS { return &AWS{cfg: cfg, now: time.Now} }

// Format keeps keys out of every text.
func (*AWS) Format(f fmt.State, _ rune) { hide(f) }

// Payloads that are not the hash of a body.
const (
	payloadUnsigned        = "UNSIGNED-PAYLOAD"
	payloadUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	payloadChunks          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	payloadChunksTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
)

// maxSignedBody bounds a body whose hash the request doesn't name.
const maxSignedBody = 16 << 20

// Sign signs a request again that was signed with the placeholders, and
// reports whether it was one. Others are left as they are. It may change
// header, query and body in place; the body's length stays. The error is an
// *Error, or the body's own; the body, too, may end with an *Error.
//
// The body is held only where the request doesn't say its hash, as with most
// services but S3.
func (a *AWS) Sign(r *http.Request) (used bool, err error) {
	c, err := find(r, a.cfg.PlaceholderKeyID)
	if c == nil || err != nil {
		return false, err
	}
	if err := c.checkTime(a.now()); err != nil {
		return false, err
	}
	f, payload, err := a.verify(r, c)
	if err != nil {
		return false, err
	}
	signature := a.resign(r, c, f, payload)
	if payload == payloadChunks || payload == payloadChunksTrailer {
		a.resignChunks(r, c, signature, payload == payloadChunksTrailer)
	}
	return true, nil
}

// verify finds the form in which the guest signed the request, and what stood
// for the body.
func (a *AWS) verify(r *http.Request, c *claim) (f form, payload string, err error) {
	if payload, err = saidPayload(r, c); err != nil {
		return form{}, "", err
	}
	tried := payload
	if payload == "" {
		tried = payloadUnsigned // some operations are signed so and don't say it
	}
	f, ok := a.match(r, c, tried)
	if !ok && payload == "" {
		body, err := a.budget.hold(r, maxSignedBody)
		if err != nil {
			return form{}, "", err
		}
		tried = hexHash(body)
		f, ok = a.match(r, c, tried)
	}
	if !ok {
		return form{}, "", mismatch(r, c)
	}
	return f, tried, nil
}

// match finds the form whose signature by the placeholder is the request's.
func (a *AWS) match(r *http.Request, c *claim, payload string) (form, bool) {
	key := signingKey(a.cfg.PlaceholderSecret, c)
	for _, f := range forms(c.service, r.URL.EscapedPath(), r.URL.RawQuery) {
		if hmac.Equal([]byte(c.sign(key, r, f, payload)), []byte(c.signature)) {
			return f, true
		}
	}
	return form{}, false
}

// mismatch refuses a request and gives back what is held of its body.
func mismatch(r *http.Request, c *claim) error {
	if h, ok := r.Body.(*held); ok {
		_ = h.Close()
	}
	for _, name := range c.signed {
		if _, sent := headerValues(r, name); !sent {
			return refuse(CodeHeaderMissing, "the header %s is signed but not sent on: leave it out of the signed headers", name)
		}
	}
	return refuse(CodeMismatch, "the request doesn't match its signature: it was changed after it was signed, or another secret key was used than the variable's")
}

// saidPayload is what the request says that stands for its body in the signed
// text; empty for nothing.
func saidPayload(r *http.Request, c *claim) (string, error) {
	values := r.Header.Values(headerPayload)
	if c.presigned {
		values = append(slices.Clone(values), queryParams(r.URL.RawQuery)[headerPayload]...)
	}
	switch {
	case len(values) > 1:
		return "", refuse(CodeMalformed, "the request says %s more than once", headerPayload)
	case len(values) == 1:
		return values[0], checkPayload(values[0], c.presigned)
	case c.presigned && slices.Contains(objectStores, c.service):
		return payloadUnsigned, nil
	}
	return "", nil
}

func checkPayload(payload string, presigned bool) error {
	switch {
	case payload == payloadUnsigned, payload == payloadUnsignedTrailer, validSignature.MatchString(payload):
		return nil
	case strings.HasPrefix(payload, "STREAMING-AWS4-ECDSA-"):
		return refuse(CodeSigV4A, "chunks signed with Signature Version 4A can't be signed again: use a single-region endpoint")
	case presigned, payload != payloadChunks && payload != payloadChunksTrailer:
		return refuse(CodeUnsupported, "this kind of %s can't be signed again: use a hash, %s, %s or signed chunks in a request with the header Authorization", headerPayload, payloadUnsigned, payloadUnsignedTrailer)
	}
	return nil
}

// resign puts the real credentials and their signature into the request, and
// returns the signature.
func (a *AWS) resign(r *http.Request, c *claim, f form, payload string) string {
	if c.presigned {
		return a.resignQuery(r, c, f, payload)
	}
	a.replaceToken(r, c)
	signature := c.sign(signingKey(a.cfg.Secret, c), r, f, payload)
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		algorithm, a.cfg.KeyID, c.scope(), strings.Join(c.signed, ";"), signature))
	return signature
}

func (a *AWS) replaceToken(r *http.Request, c *claim) {
	name := strings.ToLower(headerToken)
	at, signed := slices.BinarySearch(c.signed, name)
	r.Header.Del(headerToken)
	switch {
	case a.cfg.SessionToken == "" && signed:
		c.signed = slices.Delete(c.signed, at, at+1)
	case a.cfg.SessionToken != "":
		r.Header.Set(headerToken, a.cfg.SessionToken)
		if !signed {
			c.signed = slices.Insert(c.signed, at, name)
		}
	}
}

// resignQuery leaves every other parameter as the guest wrote it.
func (a *AWS) resignQuery(r *http.Request, c *claim, f form, payload string) string {
	r.Header.Del(headerToken) // in a presigned request, the query has it
	c.signed = slices.DeleteFunc(c.signed, func(name string) bool { return name == strings.ToLower(headerToken) })
	set := map[string]string{
		paramKey:       a.cfg.KeyID + "/" + c.scope(),
		paramSigned:    strings.Join(c.signed, ";"),
		headerToken:    a.cfg.SessionToken,
		paramSignature: "",
	}
	f.query, _ = sortQuery(setParams(f.query, set), asItIs)
	signature := c.sign(signingKey(a.cfg.Secret, c), r, f, payload)
	set[paramSignature] = signature
	r.URL.RawQuery = setParams(r.URL.RawQuery, set)
	return signature
}

// setParams replaces parameters of a query, and drops those set to nothing.
func setParams(query string, set map[string]string) string {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); err == nil {
			key = plain
		}
		if _, replaced := set[key]; !replaced {
			kept = append(kept, pair)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if set[key] != "" {
			kept = append(kept, key+"="+escape(set[key]))
		}
	}
	return strings.Join(kept, "&")
}
