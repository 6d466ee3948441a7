package intercept

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/gateway/sign"
)

// The rules about requests.
const (
	ruleConnect   = "no tunnels through a host"
	ruleOtherHost = "a request for another host than the connection's"
	ruleByAddress = "a secret's host, reached by address"
	ruleUntrusted = "upstream's certificate can't be verified"
	ruleUpstream  = "upstream did not answer"
	ruleTooMany   = "too many opened connections"
	ruleProtocol  = "nothing but HTTP where connections are opened"
)

// secretRules are the rules behind a secret's refusals, by their codes.
var secretRules = map[string]string{
	secret.CodeNeedsTLS:            "secrets leave over verified TLS only",
	secret.CodeExclusive:           "other credentials than the secret's",
	secret.CodeMethodRefused:       "a method that shows requests",
	secret.CodeBodyNotReadable:     "a body that can't be searched for placeholders",
	secret.CodeResponseNotReadable: "a response that can't be searched for values",
}

const ruleSign = "a request that can't be signed"

func secretRule(code string) string { return cmp.Or(secretRules[code], ruleSign) }

// noteHandshake is for a program that looks for roots elsewhere, above all.
const noteHandshake = "the guest broke off the TLS handshake: does the program trust the sandbox's certificates?"

// refusal is an answer that the gateway gives in upstream's place.
type refusal struct {
	status int
	Code   string `json:"code"`
	Text   string `json:"message"`
	Host   string `json:"host"`
	Rule   string `json:"rule"`
}

func refuse(status int, code, host, rule, text string) *refusal {
	return &refusal{status: status, Code: code, Host: clip(host), Rule: rule, Text: text}
}

// clip bounds text of the guest's that goes into an answer.
func clip(s string) string {
	const most = 253
	return s[:min(len(s), most)]
}

// answer writes the refusal as the response.
func (no *refusal) answer(w *responseWriter, r *http.Request) {
	w.exchange.refuse(no)
	body, err := json.Marshal(no)
	if err != nil {
		body = []byte("{}")
	}
	h := w.Header()
	clear(h)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	h.Set("X-Atoll-Refused", no.Code)
	if r.ProtoMajor == 1 {
		h.Set("Connection", "close") // the rest of the request is not read
	}
	w.WriteHeader(no.status)
	_, _ = w.Write(append(body, '\n'))
}

// fail is the answer to a request that could not be passed on.
func (e *exchange) fail(err error) *refusal {
	if no, ok := errors.AsType[*secret.Refusal](err); ok {
		return refuse(http.StatusForbidden, no.Code, e.host, secretRule(no.Code), no.Reason)
	}
	if no, ok := errors.AsType[*sign.Error](err); ok { // of a body that was under way
		return refuse(http.StatusForbidden, no.Code, e.host, ruleSign, no.Reason)
	}
	if u, ok := errors.AsType[*untrusted](err); ok {
		return refuse(http.StatusBadGateway, "UPSTREAM_UNTRUSTED", e.host, ruleUntrusted, u.Error())
	}
	text := "the connection to the host broke"
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		text = "the host did not answer in time"
	}
	e.of.cfg.Log.Debug("request failed", "name", e.query.Name, "why", text) // errors quote what the host said
	return refuse(http.StatusBadGateway, "UPSTREAM_FAILED", e.host, ruleUpstream, text)
}

// refuse notes a refusal in the record.
func (r *record) refuse(no *refusal) {
	r.Decision, r.Rule = audit.Refuse, no.Rule
}
