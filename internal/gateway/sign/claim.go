package sign

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of Signature Version 4.
const (
	algorithm      = "AWS4-HMAC-SHA256"
	asymmetric     = "AWS4-ECDSA-P256-SHA256"
	terminator     = "aws4_request"
	timeFormat     = "20060102T150405Z"
	headerDate     = "X-Amz-Date"
	headerPayload  = "X-Amz-Content-Sha256"
	headerToken    = "X-Amz-Security-Token"
	paramAlgorithm = "X-Amz-Algorithm"
	paramKey       = "X-Amz-Credential"
	paramSigned    = "X-Amz-SignedHeaders"
	paramExpires   = "X-Amz-Expires"
	paramSignature = "X-Amz-Signature"
	oldParamKey    = "AWSAccessKeyId" // of version 2
)

// Bounds of a claim.
const (
	maxAuthorization = 8 << 10 // bytes
	maxSigned        = 128     // headers
	maxSkew          = 15 * time.Minute
	maxExpires       = 7 * 24 * time.Hour
)

// claim is what a request says of its signature.
type claim struct {
	keyID     string
	day       string // 20130524
	region    string
	service   string
	signed    []string // names of headers, in lower case and sorted
	signature string   // hexadecimal

	at        time.Time
	presigned bool          // all of this is in the query
	expires   time.Duration // of a presigned request, after at
}

func (c *claim) scope() string {
	return c.day + "/" + c.region + "/" + c.service + "/" + terminator
}

// find returns the claim of a request that is signed with the key id, nil when
// there is none. What mentions the key id and can't be read is refused.
func find(r *http.Request, keyID string) (*claim, error) {
	query := queryParams(r.URL.RawQuery)
	inHeader := slices.ContainsFunc(r.Header.Values("Authorization"), func(v string) bool { return strings.Contains(v, keyID) })
	inQuery := slices.ContainsFunc(append(query[paramKey], query[oldParamKey]...), func(v string) bool { return strings.Contains(v, keyID) })
	var c *claim
	var err error
	switch {
	case keyID == "" || !inHeader && !inQuery:
		return nil, nil
	case inHeader && inQuery:
		return nil, refuse(CodeMalformed, "the request is signed twice, in the header Authorization and in the query: sign it once")
	case inHeader:
		c, err = findHeader(r)
	default:
		c, err = findQuery(query)
	}
	if err == nil && c.keyID != keyID {
		err = refuse(CodeMalformed, "the request's access key id only contains the variable's: use it as it is")
	}
	if err == nil && !slices.Contains(c.signed, "host") {
		err = refuse(CodeMalformed, "the header host must be among the signed headers")
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func findHeader(r *http.Request) (*claim, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return nil, refuse(CodeMalformed, "the request has %d headers Authorization: send one", len(values))
	}
	c, err := parseAuthorization(values[0])
	if err != nil {
		return nil, err
	}
	if c.at, err = signingTime(r.Header); err != nil {
		return nil, err
	}
	return c, c.checkDay()
}

// signingTime is the header X-Amz-Date, or Date for clients that know only
// that.
func signingTime(h http.Header) (time.Time, error) {
	values, layout := h.Values(headerDate), timeFormat
	if len(values) == 0 {
		values, layout = h.Values("Date"), http.TimeFormat
	}
	if len(values) == 1 {
		if at, err := time.Parse(layout, values[0]); err == nil {
			return at, nil
		}
		if at, err := time.Parse(timeFormat, values[0]); err == nil {
			return at, nil
		}
	}
	return time.Time{}, refuse(CodeMalformed, "the request needs one header X-Amz-Date, such as 20130524T000000Z")
}

// parseAuthorization reads the header. The fields come in any order, and
// clients put comma, space or both between them.
func parseAuthorization(value string) (*claim, error) {
	if len(value) > maxAuthorization {
		return nil, refuse(CodeMalformed, "the header Authorization is longer than %d bytes", maxAuthorization)
	}
	name, rest, _ := strings.Cut(value, " ")
	if err := checkAlgorithm(name); err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for _, f := range strings.FieldsFunc(rest, func(c rune) bool { return c == ',' || c == ' ' }) {
		key, v, _ := strings.Cut(f, "=")
		if _, twice := fields[key]; twice || !slices.Contains([]string{"Credential", "SignedHeaders", "Signature"}, key) {
			return nil, refuse(CodeMalformed, "the header Authorization has Credential, SignedHeaders and Signature, each once, and nothing else")
		}
		fields[key] = v
	}
	return newClaim(fields["Credential"], fields["SignedHeaders"], fields["Signature"])
}

func checkAlgorithm(name string) error {
	switch name {
	case algorithm:
		return nil
	case asymmetric:
		return refuse(CodeSigV4A, "Signature Version 4A (%s) can't be signed again: use a single-region endpoint, which takes %s", asymmetric, algorithm)
	}
	return refuse(CodeUnsupported, "the request isn't signed with %s, the only algorithm that can be signed again", algorithm)
}

// findQuery reads a presigned request.
func findQuery(query map[string][]string) (*claim, error) {
	for _, name := range []string{paramAlgorithm, paramKey, paramSigned, paramSignature, headerDate, paramExpires, headerToken, headerPayload} {
		if len(query[name]) > 1 {
			return nil, refuse(CodeMalformed, "the query has %s more than once", name)
		}
	}
	get := func(name string) string { return strings.Join(query[name], "") }
	if err := checkAlgorithm(get(paramAlgorithm)); err != nil {
		return nil, err
	}
	c, err := newClaim(get(paramKey), get(paramSigned), get(paramSignature))
	if err != nil {
		return nil, err
	}
	c.presigned = true
	seconds, err := strconv.ParseUint(get(paramExpires), 10, 32)
	c.expires = time.Duration(seconds) * time.Second
	if err != nil || c.expires > maxExpires {
		return nil, refuse(CodeMalformed, "the query needs %s, in seconds and at most seven days", paramExpires)
	}
	if c.at, err = time.Parse(timeFormat, get(headerDate)); err != nil {
		return nil, refuse(CodeMalformed, "the query needs %s, such as 20130524T000000Z", headerDate)
	}
	return c, c.checkDay()
}

var (
	validDay       = regexp.MustCompile(`^[0-9]{8}$`)
	validScope     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	validName      = regexp.MustCompile("^[a-z0-9!#$%&'*+.^_`|~-]{1,256}$")
	validSignature = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func newClaim(credential, signed, signature string) (*claim, error) {
	part := strings.Split(credential, "/")
	if len(part) != 5 || part[0] == "" || !validDay.MatchString(part[1]) ||
		!validScope.MatchString(part[2]) || !validScope.MatchString(part[3]) || part[4] != terminator {
		return nil, refuse(CodeMalformed, "the request's credential must be an access key id, date, region, service and %s, with slashes between", terminator)
	}
	if !validSignature.MatchString(signature) {
		return nil, refuse(CodeMalformed, "the request's signature must have 64 hexadecimal digits in lower case")
	}
	c := &claim{keyID: part[0], day: part[1], region: part[2], service: part[3], signature: signature}
	c.signed = strings.Split(signed, ";")
	if len(c.signed) > maxSigned {
		return nil, refuse(CodeMalformed, "more than %d headers are signed", maxSigned)
	}
	for i, name := range c.signed {
		if !validName.MatchString(name) || i > 0 && c.signed[i-1] >= name {
			return nil, refuse(CodeMalformed, "the signed headers must be names in lower case, sorted, with semicolons between")
		}
	}
	return c, nil
}

func (c *claim) checkDay() error {
	if c.at.Format("20060102") != c.day {
		return refuse(CodeMalformed, "the day in the request's credential is not that of its date")
	}
	return nil
}

// checkTime refuses what the server would, with a better reason. A presigned
// request may be as old as it says.
func (c *claim) checkTime(now time.Time) error {
	age := now.Sub(c.at)
	switch {
	case age < -maxSkew:
		return refuse(CodeDate, "the request is signed %v ahead of now: set the sandbox's clock", (-age).Round(time.Second))
	case c.presigned && age > c.expires:
		return refuse(CodeDate, "the presigned request has expired: presign it again")
	case !c.presigned && age > maxSkew:
		return refuse(CodeDate, "the request was signed %v ago and at most %v are allowed: sign it again", age.Round(time.Second), maxSkew)
	}
	return nil
}

// queryParams decodes a query as far as it can be.
func queryParams(raw string) map[string][]string {
	params := map[string][]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err != nil {
			continue
		}
		if value, err = url.QueryUnescape(value); err == nil {
			params[key] = append(params[key], value)
		}
	}
	return params
}
