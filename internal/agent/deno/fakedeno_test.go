package deno

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// fakeDenoEnv makes the test binary behave like a very small Deno. Its
// programs are single words: see runFake.
const fakeDenoEnv = "ATOLL_FAKE_DENO"

func fakeDeno(args []string) int {
	switch args[0] {
	case "eval":
		return runFake(args[2], args[3:])
	case "run":
		return runFakeFile(args[1:])
	case "repl":
		return fakeRepl(os.NewFile(3, "protocol"))
	}
	return 64
}

// runFakeFile runs a file's words; the rest of the file is padding.
func runFakeFile(args []string) int {
	preload := ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if args[0] == "--preload" {
			preload, args = args[1], args[1:]
		}
		args = args[1:]
	}
	if preload != "" { // started once, restarted twice
		os.WriteFile(filepath.Join(filepath.Dir(preload), "starts"), []byte{0, 0, 0}, 0)
	}
	code, err := os.ReadFile(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return runFake(strings.TrimSpace(string(code)), args[1:])
}

func runFake(code string, args []string) int {
	switch code {
	case "args":
		fmt.Print(strings.Join(args, " "))
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "block":
		select {}
	case "serve":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 1
		}
		http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served "+r.Host) }))
	}
	return 0
}

// fakeRepl answers like a session whose only value is its last code.
func fakeRepl(conn io.ReadWriter) int {
	last := ""
	for {
		var req replRequest
		if readFrame(conn, &req) != nil {
			return 1
		}
		reply := map[string]any{"type": replySuccess}
		switch {
		case req.Code == bootstrap:
		case req.Code == "hang":
			select {}
		case req.Code == "die":
			return 7
		case req.Code == "syntax":
			reply = map[string]any{"type": replyError, "error": "SyntaxError: bad"}
		case req.Code == "throw":
			reply = map[string]any{"type": replyFailure, "text": "Uncaught"}
		case req.Code == "__atoll.error()":
			reply["output"] = `{"constructorName":"TypeError","message":"thrown","code":"EFAKE"}`
		case req.Code == "__atoll.exit()":
			return 0
		case req.Output:
			value, _ := json.Marshal([]string{last, req.Code})
			reply["output"] = string(value)
		default:
			last = req.Code
		}
		if writeFrame(conn, reply) != nil {
			return 1
		}
	}
}
