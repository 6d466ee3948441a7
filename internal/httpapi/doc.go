// Package httpapi is the HTTP surface of the server: one table of routes, each
// with its method, path, scope and handler, and around them what every request
// goes through.
//
// A handler returns an error or answers; errors are turned into status, code
// and message in one place. Text that was not written for callers never
// reaches them. Handlers of one noun share a file.
package httpapi
