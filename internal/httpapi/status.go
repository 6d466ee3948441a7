package httpapi

import (
	"net/http"

	"github.com/atollhq/atoll/internal/errs"
)

// Codes whose status is not that of their class.
const (
	codeMethod  = "METHOD_NOT_ALLOWED"
	codeUpgrade = "UPGRADE_REQUIRED"
	codeTooBig  = "BODY_TOO_LARGE"
)

// statusClientLeft is never seen by anyone but the metrics.
const statusClientLeft = 499

var statusByCode = map[string]int{
	codeMethod:  http.StatusMethodNotAllowed,
	codeUpgrade: http.StatusUpgradeRequired,
	codeTooBig:  http.StatusRequestEntityTooLarge,
}

var statusByClass = map[errs.Class]int{
	errs.NotFound:      http.StatusNotFound,
	errs.AlreadyExists: http.StatusConflict,
	errs.Invalid:       http.StatusBadRequest,
	errs.Conflict:      http.StatusConflict,
	errs.Precondition:  http.StatusPreconditionFailed,
	errs.Unauthorized:  http.StatusUnauthorized,
	errs.Denied:        http.StatusForbidden,
	errs.Exhausted:     http.StatusTooManyRequests,
	errs.Unsupported:   http.StatusNotImplemented,
	errs.Unavailable:   http.StatusServiceUnavailable,
	errs.Timeout:       http.StatusGatewayTimeout,
	errs.Internal:      http.StatusInternalServerError,
}

// statusOf is the one place where errors become HTTP statuses.
func statusOf(e *errs.Error) int {
	if status, ok := statusByCode[e.Code]; ok {
		return status
	}
	if status, ok := statusByClass[e.Class]; ok {
		return status
	}
	return http.StatusInternalServerError
}
