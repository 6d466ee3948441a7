//go:build e2e

package harness

import (
	"encoding/json"
	"net/http"
	"strings"
)

// desk answers what tests in other languages ask of this internet:
//
//	/requests?target=…  requests whose target contains a text, as {method, target, host, proto, header, body}
//	/reached?at=…       everything that arrived at one of the At constants, as texts
func (n *Internet) desk() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/requests", func(w http.ResponseWriter, r *http.Request) {
		found := []any{}
		for _, q := range n.Requests(Mark{}) {
			if strings.Contains(q.Target, r.FormValue("target")) {
				found = append(found, q.plain())
			}
		}
		_ = json.NewEncoder(w).Encode(found)
	})
	mux.HandleFunc("/reached", func(w http.ResponseWriter, r *http.Request) {
		found := []string{}
		for _, a := range n.Arrivals(Mark{}) {
			if a.At == r.FormValue("at") {
				found = append(found, a.What)
			}
		}
		_ = json.NewEncoder(w).Encode(found)
	})
	return mux
}

// plain is a request for JSON; header names are in lower case.
func (r Request) plain() any {
	header := map[string]string{}
	for name := range r.Header {
		header[strings.ToLower(name)] = r.Header.Get(name)
	}
	return map[string]any{
		"method": r.Method, "target": r.Target, "host": r.Host, "proto": r.Proto, "header": header, "body": string(decoded(r)),
	}
}
