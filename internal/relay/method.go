package relay

import "bytes"

const (
	peek  = 512 // bytes of a message in which its method is looked for
	other = "other"
)

// methods are the names that are counted; everything else is "other".
var methods = map[string]string{}

func init() {
	for _, name := range []string{
		"abort", "chmod", "chown", "copyFile", "create", "denoHttpWait", "denoReplCall", "denoReplClose", "denoReplEval",
		"envDelete", "envGet", "envSet", "envToObject", "expandGlob", "exposeHttp", "fetch",
		"fileClose", "fileFlush", "fileLock", "fileRead", "fileSeek", "fileStat", "fileSync", "fileSyncData", "fileTruncate", "fileUnlock", "fileUtime", "fileWrite",
		"link", "lstat", "makeTempDir", "makeTempFile", "mkdir", "open", "processKill", "processWait",
		"readDir", "readFile", "readLink", "readTextFile", "realPath", "remove", "rename",
		"spawn", "spawnDeno", "spawnDenoRepl", "stat", "symlink", "truncate", "umask", "utime", "vscode", "walk", "writeFile", "writeTextFile",
		"$sandbox.stream.start", "$sandbox.stream.enqueue", "$sandbox.stream.end", "$sandbox.stream.error", "$sandbox.stream.cancel",
	} {
		methods[name] = name
	}
}

// Method finds the method that a JSON-RPC message calls, for counting: a name
// of the API, "other", or empty when its first 512 bytes name none. It makes
// no promise about malformed messages, except to end.
func Method(message []byte) string {
	s := scanner{rest: message[:min(len(message), peek)]}
	var key []byte
	for {
		token, text := s.next()
		switch {
		case token == 0:
			return ""
		case s.depth != 1:
		case token == ',' || token == '{':
			key = nil
			s.value = false
		case token == ':':
			s.value = true
		case token == '"' && !s.value:
			key = text
		case token == '"' && bytes.Equal(key, []byte("method")):
			if name, ok := methods[string(text)]; ok {
				return name
			}
			return other
		}
	}
}

// scanner splits JSON into strings and structural characters, and knows how
// deep it is.
type scanner struct {
	rest  []byte
	depth int
	value bool // behind a colon of the outermost object
}

// next returns a structural character, or '"' and a string's raw content, or
// 0 at the end.
func (s *scanner) next() (token byte, text []byte) {
	for i, c := range s.rest {
		switch c {
		case '{', '[':
			s.depth++
		case '}', ']':
			s.depth--
		case ',', ':':
		case '"':
			return s.text(s.rest[i+1:])
		default:
			continue
		}
		s.rest = s.rest[i+1:]
		return c, nil
	}
	return 0, nil
}

// text reads a string whose opening quote was read.
func (s *scanner) text(b []byte) (token byte, text []byte) {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			s.rest = b[i+1:]
			return '"', b[:i]
		}
	}
	s.rest = nil
	return 0, nil
}
