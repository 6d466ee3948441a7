package secret

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// What authenticates a request, for "exclusive". docs/protocol.md has the same
// lists; other ways to authenticate, such as a body, are not known.
var (
	credentialHeaders = []string{
		"Authorization", "Proxy-Authorization", "Cookie", "Api-Key", "Apikey", "X-Api-Key", "X-Api-Token", "X-Auth-Key",
		"X-Auth-Token", "X-Access-Token", "X-Amz-Security-Token", "X-Goog-Api-Key", "X-Goog-Iam-Authorization-Token",
		"X-Ms-Authorization-Auxiliary", "X-Vault-Token", "X-Github-Token", "X-Gitlab-Token", "X-Shopify-Access-Token",
		"Private-Token", "Job-Token", "Deploy-Token", "Ocp-Apim-Subscription-Key", "Dd-Api-Key", "Dd-Application-Key",
	}
	credentialParams = []string{ // compared without case
		"access_token", "accesstoken", "api_key", "apikey", "api-key", "api_token", "auth", "auth_token", "authorization",
		"client_secret", "job_token", "jwt", "key", "oauth_token", "password", "passwd", "private_token", "secret", "sig",
		"signature", "subscription-key", "token",
		"x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential", "x-goog-signature",
		"awsaccesskeyid", "googleaccessid", "$httpheaders",
	}
)

// foreignCredentials names what authenticates the request and is no
// placeholder; empty when there is nothing.
func (s *Set) foreignCredentials(r *http.Request) string {
	for _, name := range credentialHeaders {
		for _, value := range valuesOf(r.Header, name) {
			if !s.isOurs(name, value) {
				return "the header " + name
			}
		}
	}
	return s.foreignParam(r.URL.RawQuery)
}

func (s *Set) foreignParam(query string) (found string) {
	signed := s.signsQuery(query)
	eachParam(query, func(name, value string) {
		lower := strings.ToLower(name)
		if found != "" || value == "" || !slices.Contains(credentialParams, lower) || s.isPlaceholder(value) {
			return
		}
		if signed && (lower == "x-amz-signature" || lower == "x-amz-credential") {
			return
		}
		found = "the query parameter " + clip(lower)
	})
	return found
}

// signsQuery reports whether the query was signed with a placeholder's key
// alone: it will be signed again.
func (s *Set) signsQuery(query string) bool {
	ours, others := 0, 0
	eachParam(query, func(name, value string) {
		if strings.EqualFold(name, "X-Amz-Credential") {
			if id, _, _ := strings.Cut(value, "/"); s.isPlaceholder(id) {
				ours++
			} else {
				others++
			}
		}
	})
	return ours > 0 && others == 0
}

// isOurs reports whether a header authenticates with placeholders only.
func (s *Set) isOurs(name, value string) bool {
	if name == "Cookie" {
		return s.areOurCookies(value)
	}
	value = strings.TrimSpace(value)
	if value == "" || s.isCredential(value) {
		return true
	}
	scheme, rest, _ := strings.Cut(value, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToLower(scheme) {
	case "basic":
		return s.isOurBasic(rest)
	case "aws4-hmac-sha256":
		return s.isOurSignature(rest)
	}
	return s.isCredential(rest)
}

// isCredential knows a placeholder, also as a quoted parameter: token="…".
func (s *Set) isCredential(text string) bool {
	if name, value, found := strings.Cut(text, "="); found && validToken.MatchString(name) {
		text = value
	}
	return s.isPlaceholder(strings.Trim(text, `"`))
}

func (s *Set) areOurCookies(header string) bool {
	for pair := range strings.SplitSeq(header, ";") {
		if pair = strings.TrimSpace(pair); pair != "" && !s.isCredential(pair) {
			return false
		}
	}
	return true
}

// isOurBasic asks for a placeholder as the password or, with none, as the user.
func (s *Set) isOurBasic(encoded string) bool {
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	user, password, found := strings.Cut(string(text), ":")
	if err != nil || !found {
		return false
	}
	return s.isPlaceholder(password) || s.isPlaceholder(user) && (password == "" || password == "x-oauth-basic")
}

func (s *Set) isOurSignature(params string) bool {
	_, credential, found := strings.Cut(params, "Credential=")
	id, _, _ := strings.Cut(credential, "/")
	return found && s.isPlaceholder(id) && strings.Count(params, "Credential=") == 1
}

func (s *Set) isPlaceholder(text string) bool {
	return slices.ContainsFunc(s.holders, func(h holder) bool { return h.text == text })
}
