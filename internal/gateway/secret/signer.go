package secret

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/atollhq/atoll/internal/gateway/sign"
)

// signer signs a request that is otherwise ready to be sent, if the request
// asks for it.
type signer interface {
	Sign(r *http.Request) (used bool, err error)
}

// placeholders are what the guest holds for the parts of a key.
type placeholders struct{ secret, keyID, session string }

type signerMaker func(spec Spec, stand placeholders) (signer, error)

// newSigner is the only place that knows how signatures are made.
func newSigner(spec Spec, stand placeholders) (signer, error) {
	s := spec.Sign
	if s.Type == "aws" {
		return sign.NewAWS(sign.AWSConfig{
			KeyID: s.KeyID, Secret: spec.Value, SessionToken: s.SessionToken,
			PlaceholderKeyID: stand.keyID, PlaceholderSecret: stand.secret, PlaceholderToken: stand.session,
		}), nil
	}
	return sign.NewHMAC(sign.HMACConfig{
		Key: spec.Value, Algorithm: s.Algorithm, Encoding: s.Encoding, Header: s.Header, Prefix: s.Prefix,
		Over: s.Over, Separator: s.Separator, TimeHeader: s.TimeHeader,
	})
}

// variable is one that holds the placeholder of a part of a key.
type variable struct {
	field, env, value string
	in                func(*placeholders) *string
}

// variables are those beside the secret's own.
func (s *Sign) variables() []variable {
	if s.Type != "aws" {
		return nil
	}
	all := []variable{{"sign.key_id_env", orElse(s.KeyIDEnv, "AWS_ACCESS_KEY_ID"), s.KeyID, func(p *placeholders) *string { return &p.keyID }}}
	if s.SessionToken != "" {
		all = append(all, variable{"sign.session_env", orElse(s.SessionEnv, "AWS_SESSION_TOKEN"), s.SessionToken, func(p *placeholders) *string { return &p.session }})
	}
	return all
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func checkSign(spec Spec) *SpecError {
	if len(spec.In) > 0 {
		return &SpecError{Field: "in", Reason: "the value signs and is in no part of a request: remove in"}
	}
	var field, reason string
	switch s := spec.Sign; s.Type {
	case "aws":
		field, reason = s.checkAWS()
	case "hmac":
		field, reason = s.checkHMAC()
	default:
		field, reason = "type", fmt.Sprintf("%q is no way to sign: use aws or hmac", clip(s.Type))
	}
	if reason != "" {
		return &SpecError{Field: "sign." + field, Reason: reason}
	}
	return nil
}

const foreign = "it belongs to the other type of signature: remove it"

// isPlain reports whether s can be part of a header.
func isPlain(s string) bool {
	return len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// firstSet takes names and values and returns the first name with a value.
func firstSet(pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			return pairs[i]
		}
	}
	return ""
}

func (s *Sign) checkAWS() (field, reason string) {
	if field := firstSet("algorithm", s.Algorithm, "encoding", s.Encoding, "header", s.Header, "prefix", s.Prefix, "separator", s.Separator, "time_header", s.TimeHeader); field != "" {
		return field, foreign
	}
	switch {
	case len(s.Over) > 0:
		return "over", foreign
	case s.KeyID == "" || !isPlain(s.KeyID) || strings.ContainsAny(s.KeyID, " /,"):
		return "key_id", "give the access key id that belongs to the value"
	case s.SessionToken == "" && s.SessionEnv != "":
		return "session_env", "there is no session_token that it could be for"
	case s.SessionToken != "" && checkValue(s.SessionToken) != "":
		return "session_token", checkValue(s.SessionToken)
	}
	for _, v := range s.variables() {
		if !validName.MatchString(v.env) || len(v.env) > maxName {
			return strings.TrimPrefix(v.field, "sign."), fmt.Sprintf("%q can't be the name of a variable: use letters, digits and underscores", clip(v.env))
		}
	}
	return "", ""
}

func (s *Sign) checkHMAC() (field, reason string) {
	if field := firstSet("key_id", s.KeyID, "key_id_env", s.KeyIDEnv, "session_token", s.SessionToken, "session_env", s.SessionEnv); field != "" {
		return field, foreign
	}
	switch {
	case !validToken.MatchString(s.Header):
		return "header", "name the header that carries the signature"
	case s.TimeHeader != "" && (!validToken.MatchString(s.TimeHeader) || strings.EqualFold(s.TimeHeader, s.Header)):
		return "time_header", "name a header of its own for the timestamp"
	case !slices.Contains([]string{"", "sha256", "sha512", "sha1"}, s.Algorithm):
		return "algorithm", fmt.Sprintf("%q is none: use sha256, sha512 or sha1", clip(s.Algorithm))
	case !slices.Contains([]string{"", "hex", "base64"}, s.Encoding):
		return "encoding", fmt.Sprintf("%q is none: use hex or base64", clip(s.Encoding))
	case !isPlain(s.Prefix):
		return "prefix", "use at most 128 printable ASCII characters"
	case len(s.Separator) > maxName:
		return "separator", "use at most 128 bytes"
	}
	return s.checkOver()
}

// checkOver checks what is signed.
func (s *Sign) checkOver() (field, reason string) {
	const most = 16
	if len(s.Over) > most {
		return "over", fmt.Sprintf("there are %d parts and at most %d are allowed", len(s.Over), most)
	}
	for i, part := range s.Over {
		field := fmt.Sprintf("over[%d]", i)
		name, isHeader := strings.CutPrefix(part, "header:")
		switch {
		case isHeader && !validToken.MatchString(name):
			return field, "name the header: header:Name"
		case isHeader || strings.HasPrefix(part, "text:") && len(part) <= maxPattern:
		case part == "timestamp" && s.TimeHeader == "" && !strings.Contains(s.Prefix, "{timestamp}"):
			return field, "the server has to learn the timestamp: set time_header, or write {timestamp} in prefix"
		case !slices.Contains([]string{"body", "method", "path", "query", "timestamp"}, part):
			return field, fmt.Sprintf("%q can't be signed: use body, method, path, query, timestamp, header:Name or text:…", clip(part))
		}
	}
	return "", ""
}
