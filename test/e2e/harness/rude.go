//go:build e2e

package harness

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// rude are answers that have a value where only the protocol's own words
// belong.
var rude = map[string]func(w http.ResponseWriter, value string){
	"name": func(w http.ResponseWriter, value string) {
		w.Header().Set("X-"+value, "1")
		w.Header().Set(http.TrailerPrefix+"T-"+value, "1")
		_, _ = io.WriteString(w, "see the names\n")
	},
	"nothing": func(w http.ResponseWriter, value string) {
		w.Header().Set("Trailer", "X-Reflected")
		w.WriteHeader(http.StatusNoContent)
		w.Header().Set("X-Reflected", value)
	},
	"message": func(w http.ResponseWriter, value string) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "\x00\x00\x00\x00"+string(byte(len(value)-4))+value)
	},
	"reason": func(w http.ResponseWriter, value string) {
		say(w, "HTTP/1.1 101 "+value+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	},
	"status": func(w http.ResponseWriter, value string) { say(w, value+"\r\n\r\n") },
	"behind": func(w http.ResponseWriter, value string) {
		say(w, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", value)
	},
}

// say takes over a connection of HTTP/1.1 and sends texts, one after the
// other.
func say(w http.ResponseWriter, texts ...string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, fmt.Sprint(err), http.StatusInternalServerError)
		return
	}
	for _, text := range texts {
		_, _ = io.WriteString(conn, text)
		time.Sleep(100 * time.Millisecond) // so that each is a message of its own
	}
	_ = conn.Close()
}
