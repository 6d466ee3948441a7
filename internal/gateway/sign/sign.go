// Package sign signs HTTP requests with keys that the guest doesn't hold: AWS
// Signature Version 4 in place of the guest's own signature, and HMAC of parts
// of a request.
package sign
