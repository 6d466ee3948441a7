//go:build e2e

package harness

import (
	"cmp"
	"crypto/md5" //nolint:gosec // S3's entity tags
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ObjectStore is a small S3 with paths of bucket and key: it lists buckets and
// keeps objects. It answers nothing that isn't signed with the one pair of
// keys that it knows, and reads every way of signing that the SDKs have. It
// also answers STS's GetCallerIdentity, which is signed as most services are.
//
// It follows AWS's documentation and shares no code with the gateway: a
// mistake in both would hide itself.
type ObjectStore struct {
	KeyID, Secret, Token string // Token is empty for keys that last
	Now                  func() time.Time

	serving  sync.RWMutex // held for reading by each request
	mu       sync.Mutex   // guards the fields below
	objects  map[string][]byte
	requests []ObjectRequest
}

// ObjectRequest is a request that the store got.
type ObjectRequest struct {
	Method, Target string
	Header         http.Header
	Signed         string // how: "header" or "query"
	Payload        string // what it says in place of a hash, or "hash"
	Chunks         int    // of data, in a body of chunks
	Status         int    // that was answered
	Code           string // of the refusal; empty for none
}

// NewObjectStore returns an empty store.
func NewObjectStore(keyID, secret, token string) *ObjectStore {
	return &ObjectStore{KeyID: keyID, Secret: secret, Token: token, Now: time.Now, objects: map[string][]byte{}}
}

// Requests returns what arrived since the start. It waits for requests that
// are being answered: a client may have its answer before they are noted.
func (s *ObjectStore) Requests() []ObjectRequest {
	s.serving.Lock()
	defer s.serving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Object returns what is stored as "/bucket/key".
func (s *ObjectStore) Object(path string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[path]
	return data, ok
}

// Put stores an object.
func (s *ObjectStore) Put(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = data
}

// storeError is a refusal as S3 says it.
type storeError struct {
	status    int
	code, why string
}

func (e *storeError) Error() string { return e.code + ": " + e.why }

func denied(code, format string, args ...any) error {
	return &storeError{http.StatusForbidden, code, fmt.Sprintf(format, args...)}
}

func badRequest(code, format string, args ...any) error {
	return &storeError{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

func (s *ObjectStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serving.RLock()
	defer s.serving.RUnlock()
	got := ObjectRequest{Method: r.Method, Target: r.RequestURI, Header: r.Header.Clone(), Status: http.StatusOK}
	v := &verifier{store: s, r: r, got: &got}
	body, err := v.verify()
	if err == nil {
		err = s.answer(w, r, v.service, body)
	}
	if err != nil {
		e := &storeError{http.StatusBadRequest, "IncompleteBody", err.Error()}
		errors.As(err, &e)
		got.Status, got.Code = e.status, e.code
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(e.status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", e.code, escapeXML(e.why))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, got)
}

func escapeXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder never fails
	return b.String()
}

func (s *ObjectStore) answer(w http.ResponseWriter, r *http.Request, service string, body []byte) error {
	if service == "sts" {
		_, err := io.WriteString(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
			`<Arn>arn:aws:iam::123456789012:user/atoll</Arn><UserId>AIDAATOLL</UserId><Account>123456789012</Account>`+
			`</GetCallerIdentityResult></GetCallerIdentityResponse>`)
		return err
	}
	switch path := r.URL.Path; {
	case path == "/" && r.Method == http.MethodGet:
		return s.listBuckets(w)
	case strings.Count(path, "/") < 2:
		return badRequest("MethodNotAllowed", "buckets exist when something is in them")
	case r.Method == http.MethodPut:
		s.Put(path, body)
		w.Header().Set("ETag", etag(body))
		return nil
	default:
		return s.object(w, r)
	}
}

func (s *ObjectStore) listBuckets(w http.ResponseWriter) error {
	s.mu.Lock()
	var names []string
	for path := range s.objects {
		names = append(names, strings.Split(path, "/")[1])
	}
	s.mu.Unlock()
	slices.Sort(names)
	var out strings.Builder
	for _, name := range slices.Compact(names) {
		fmt.Fprintf(&out, "<Bucket><Name>%s</Name><CreationDate>2026-01-01T00:00:00.000Z</CreationDate></Bucket>", escapeXML(name))
	}
	_, err := fmt.Fprintf(w, `<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Buckets>%s</Buckets></ListAllMyBucketsResult>`, out.String())
	return err
}

func (s *ObjectStore) object(w http.ResponseWriter, r *http.Request) error {
	data, ok := s.Object(r.URL.Path)
	if !ok {
		return &storeError{http.StatusNotFound, "NoSuchKey", "there is no such object"}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		w.Header().Set("ETag", etag(data))
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data) // a client that is gone needs no answer
	case http.MethodDelete:
		s.mu.Lock()
		delete(s.objects, r.URL.Path)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		return badRequest("MethodNotAllowed", "objects have GET, HEAD, PUT and DELETE")
	}
	return nil
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return strconv.Quote(hex.EncodeToString(sum[:]))
}

// verifier verifies one request.
type verifier struct {
	store *ObjectStore
	r     *http.Request
	got   *ObjectRequest

	date, scope, service string
	names                []string // of the signed headers
	signature            string
	key                  []byte
}

// verify returns the body without what the transfer added to it.
func (v *verifier) verify() ([]byte, error) {
	query, err := splitQuery(v.r.RequestURI)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(query, func(p [2]string) bool { return p[0] == "X-Amz-Algorithm" }) {
		err = v.readQuery(query)
	} else {
		err = v.readHeader()
	}
	if err == nil {
		err = v.checkToken(query)
	}
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(v.r.Body, maxBytes))
	if err != nil {
		return nil, err
	}
	payload, err := v.payload(query, raw)
	if err != nil {
		return nil, err
	}
	if want := v.sign("AWS4-HMAC-SHA256", sha256Hex([]byte(v.canonical(query, payload)))); want != v.signature {
		return nil, denied("SignatureDoesNotMatch", "the signature is over another request than\n%s", v.canonical(query, payload))
	}
	return v.decode(payload, raw)
}

func (v *verifier) readHeader() error {
	v.got.Signed = "header"
	fields := map[string]string{}
	rest, ok := strings.CutPrefix(v.r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return denied("AccessDenied", "the request isn't signed")
	}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	v.date = v.r.Header.Get("X-Amz-Date")
	if err := v.read(fields["Credential"], fields["SignedHeaders"], fields["Signature"]); err != nil {
		return err
	}
	for name := range v.r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(v.names, name) {
			return denied("AccessDenied", "there were headers present in the request which were not signed: %s", name)
		}
	}
	if at, err := time.Parse("20060102T150405Z", v.date); err != nil || v.store.Now().Sub(at).Abs() > 15*time.Minute {
		return denied("RequestTimeTooSkewed", "the date is %q", v.date)
	}
	return nil
}

func (v *verifier) readQuery(query [][2]string) error {
	v.got.Signed = "query"
	fields := map[string]string{}
	for _, p := range query {
		fields[p[0]] = p[1]
	}
	v.date = fields["X-Amz-Date"]
	at, err := time.Parse("20060102T150405Z", v.date)
	seconds, err2 := strconv.Atoi(fields["X-Amz-Expires"])
	if age := v.store.Now().Sub(at); err != nil || err2 != nil || age < -15*time.Minute || age > time.Duration(seconds)*time.Second {
		return denied("AccessDenied", "the request has expired")
	}
	return v.read(fields["X-Amz-Credential"], fields["X-Amz-SignedHeaders"], fields["X-Amz-Signature"])
}

func (v *verifier) read(credential, names, signature string) error {
	keyID, scope, _ := strings.Cut(credential, "/")
	part := strings.Split(scope, "/")
	if keyID != v.store.KeyID {
		return denied("InvalidAccessKeyId", "the key id %q does not exist", keyID)
	}
	if len(part) != 4 || part[3] != "aws4_request" || !strings.HasPrefix(v.date, part[0]) {
		return badRequest("AuthorizationHeaderMalformed", "the credential is %q", credential)
	}
	v.scope, v.service, v.names, v.signature = scope, part[2], strings.Split(names, ";"), signature
	v.key = []byte("AWS4" + v.store.Secret)
	for _, p := range part {
		v.key = hmacSHA256(v.key, p)
	}
	if !slices.Contains(v.names, "host") || !slices.IsSorted(v.names) {
		return badRequest("AuthorizationHeaderMalformed", "the signed headers are %q", names)
	}
	return nil
}

// checkToken wants the session token exactly where the key has one.
func (v *verifier) checkToken(query [][2]string) error {
	tokens := v.r.Header.Values("X-Amz-Security-Token")
	for _, p := range query {
		if p[0] == "X-Amz-Security-Token" {
			tokens = append(slices.Clone(tokens), p[1])
		}
	}
	if len(tokens) > 1 || strings.Join(tokens, "") != v.store.Token {
		return denied("InvalidToken", "the security token is not the key's")
	}
	return nil
}

// payload is what stands for the body in the signed text.
func (v *verifier) payload(query [][2]string, raw []byte) (string, error) {
	said := v.r.Header.Get("X-Amz-Content-Sha256")
	for _, p := range query {
		if p[0] == "X-Amz-Content-Sha256" && v.got.Signed == "query" {
			said = p[1]
		}
	}
	digest := sha256Hex(raw)
	v.got.Payload = "hash"
	switch {
	case said == "" && v.got.Signed == "query" && v.service == "s3":
		v.got.Payload = "UNSIGNED-PAYLOAD"
		return v.got.Payload, nil
	case said == "" && v.service == "s3":
		return "", badRequest("MissingSecurityHeader", "x-amz-content-sha256 is missing")
	case said == "":
		return digest, nil
	case len(said) == 64 && said != digest:
		return "", badRequest("XAmzContentSHA256Mismatch", "the body is not what x-amz-content-sha256 says")
	case len(said) != 64:
		v.got.Payload = said
	}
	return said, nil
}

func (v *verifier) canonical(query [][2]string, payload string) string {
	path, _, _ := strings.Cut(v.r.RequestURI, "?")
	out := []string{v.r.Method, v.canonicalPath(path), canonicalQuery(query)}
	for _, name := range v.names {
		value := strings.Join(v.r.Header.Values(name), ",")
		if name == "host" {
			value = v.r.Host
		}
		if name == "content-length" {
			value = strconv.FormatInt(v.r.ContentLength, 10)
		}
		out = append(out, name+":"+strings.Join(strings.Fields(value), " "))
	}
	return strings.Join(append(out, "", strings.Join(v.names, ";"), payload), "\n")
}

// sign signs what AWS calls a string to sign, of the given lines.
func (v *verifier) sign(kind string, lines ...string) string {
	text := strings.Join(append([]string{kind, v.date, v.scope}, lines...), "\n")
	return hex.EncodeToString(hmacSHA256(v.key, text))
}

// decode takes the body out of its chunks, where it has some.
func (v *verifier) decode(payload string, raw []byte) ([]byte, error) {
	if !strings.HasPrefix(payload, "STREAMING-") {
		return raw, v.checkSums(v.r.Header, raw)
	}
	if !slices.Contains([]string{"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, payload) {
		return nil, badRequest("NotImplemented", "payload %q", payload)
	}
	d := &chunkReader{v: v, rest: raw, last: v.signature, signed: strings.Contains(payload, "HMAC"), trailer: strings.HasSuffix(payload, "-TRAILER")}
	data, err := d.read()
	if err != nil {
		return nil, err
	}
	if want := v.r.Header.Get("X-Amz-Decoded-Content-Length"); want != strconv.Itoa(len(data)) {
		return nil, badRequest("IncompleteBody", "%d bytes arrived and %s were announced", len(data), cmp.Or(want, "none"))
	}
	if want := v.r.Header.Get("X-Amz-Trailer"); want != "" && d.sums.Get(want) == "" {
		return nil, badRequest("MalformedTrailerError", "the trailer %q is missing", want)
	}
	return data, v.checkSums(d.sums, data)
}
