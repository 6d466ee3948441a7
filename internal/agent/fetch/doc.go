// Package fetch makes HTTP requests from inside the sandbox on behalf of a
// client: the `fetch` method. It behaves like the Fetch standard's fetch()
// without the browser (no CORS, cookies, cache or referrer).
//
// A request goes either to the network, by the sandbox's own resolver and
// trust roots and never through a proxy, or, when the client names a process,
// to that process's HTTP server, whatever host the URL names.
//
// What it does with content codings: when the client did not set
// Accept-Encoding it asks for gzip and undoes it, and the response then has no
// Content-Encoding and no Content-Length. Otherwise bodies pass as they are.
//
// Concurrency: a Client is safe for concurrent use. Bodies stream both ways;
// memory is bounded per request by the replay buffer (maxReplay).
package fetch
