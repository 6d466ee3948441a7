//go:build e2e

package harness

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// ValueHeader is the header whose value /reflect sends back.
const ValueHeader = "X-Value"

// apiHandler serves the API host. Every request is noted as it was received,
// with its body and trailer. Its paths:
//
//	/reflect?as=…   the value of ValueHeader in some encoding, see reflect
//	/notes/…        PUT and GET of any text
//	/events?of=…    events with the value, the next one after a request to /heard?of=…
//	/to?u=…         a redirect; /away and /away-tls lead to the evil host
//	/ws             sends every message back
//	/grpc           sends the body back, with a trailer, as gRPC does
//
// and all others answer "ok".
func (n *Internet) apiHandler() http.Handler {
	mux, feeds := http.NewServeMux(), new(feeds)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok\n") })
	mux.HandleFunc("/reflect", reflect)
	mux.HandleFunc("/notes/", new(notes).serve)
	mux.HandleFunc("/events", feeds.events)
	mux.HandleFunc("/heard", feeds.hear)
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.FormValue("u"), http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+EvilHost+"/", http.StatusFound)
	})
	mux.HandleFunc("/away-tls", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+EvilHost+"/", http.StatusFound)
	})
	mux.HandleFunc("/grpc", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(bodyOf(r))
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("Grpc-Message", r.Header.Get(ValueHeader))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			n.talk(w, r)
			return
		}
		body := &cached{data: bodyOf(r)}
		n.log.request(received(r, body.data))
		r.Body = body
		mux.ServeHTTP(w, r)
	})
}

func received(r *http.Request, body []byte) Request {
	out := Request{Method: r.Method, Target: r.RequestURI, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), Trailer: r.Trailer.Clone(), Body: body}
	if r.TLS != nil {
		out.SNI = r.TLS.ServerName
	}
	return out
}

// cached is a body that was read already.
type cached struct {
	data []byte
	at   int
}

func (c *cached) Read(b []byte) (int, error) {
	n := copy(b, c.data[c.at:])
	if c.at += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*cached) Close() error { return nil }

func bodyOf(r *http.Request) []byte {
	if c, ok := r.Body.(*cached); ok {
		return c.data
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxBytes)) // what came is what is noted
	return body
}

// talk sends every WebSocket message back and notes it.
func (n *Internet) talk(w http.ResponseWriter, r *http.Request) {
	n.log.request(received(r, nil))
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxBytes)
	for {
		kind, data, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		n.log.note(AtAPI, "message %q", data)
		if err := ws.Write(r.Context(), kind, data); err != nil {
			return
		}
	}
}

// notes keeps texts by path.
type notes struct {
	mu    sync.Mutex // guards texts
	texts map[string][]byte
}

func (s *notes) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPut {
		if s.texts == nil {
			s.texts = map[string][]byte{}
		}
		s.texts[r.URL.Path] = bodyOf(r)
		return
	}
	// The length is known and a part can be asked for.
	http.ServeContent(w, r, "note.txt", time.Time{}, bytes.NewReader(s.texts[r.URL.Path]))
}
