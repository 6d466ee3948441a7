// Package trust makes certificates trusted by everything in the guest: the
// operator's extra roots, and the authority with which the gateway opens
// connections.
//
// There is no one place that all programs look at. Most read Debian's store
// (a bundle, and a directory of certificates under the hash of their subject);
// many bring certificates of their own and look elsewhere only when a variable
// of their environment says so; Java has key stores. The files are those that
// update-ca-certificates(8) makes, so that it changes nothing when a user runs
// it, and its hooks give them to a Java that is installed later.
//
// Nothing but the agent may run in the guest while its trust is set.
package trust
