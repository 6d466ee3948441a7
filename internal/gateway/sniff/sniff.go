// Package sniff tells from a connection's first bytes what it is going to be.
//
// Everything here is a pure function of bytes that a hostile guest chose.
package sniff
