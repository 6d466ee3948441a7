package trust

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// variables are where programs that bring certificates of their own look for
// others. Each takes a file that holds all.
var variables = []string{
	"SSL_CERT_FILE",                    // OpenSSL of other origin (uv's Python, Conda), Go, rustls, uv, httpx, Ruby
	"CURL_CA_BUNDLE",                   // curl of other origin, requests
	"REQUESTS_CA_BUNDLE",               // requests, which brings certifi
	"PIP_CERT",                         //
	"AWS_CA_BUNDLE",                    // the AWS command line and SDKs
	"CARGO_HTTP_CAINFO",                //
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", // gRPC for Python, Ruby, C++ and others
	"NODE_EXTRA_CA_CERTS",              // Node, npm, Bun; these are added to its own
}

// environment returns the variables. A process of which the client set one
// itself has the client's.
func environment() map[string]string {
	env := map[string]string{"DENO_TLS_CA_STORE": "system,mozilla"}
	for _, name := range variables {
		env[name] = "/" + bundle
	}
	return env
}

const (
	sudoersDir = "etc/sudoers.d"
	sudoers    = sudoersDir + "/atoll-trust"
)

// keepForRoot makes sudo, which takes variables away, leave these.
func (s Store) keepForRoot(env map[string]string, trusted bool) error {
	if _, err := os.Stat(s.path(sudoersDir)); err != nil {
		return nil // there is no sudo
	}
	if err := os.Remove(s.path(sudoers)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !trusted {
		return nil
	}
	names := slices.Sorted(maps.Keys(env))
	line := "Defaults env_keep += \"" + strings.Join(names, " ") + "\"\n"
	return os.WriteFile(s.path(sudoers), []byte(line), 0o440)
}
