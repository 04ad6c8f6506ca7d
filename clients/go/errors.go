package turnkey

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is what a program branches on: stable, unlike the message. Each RPC lists its own in its documentation.
type Reason string

// The reasons of the service. ReasonNone is an error of gRPC itself, such as a server that is unreachable.
const (
	ReasonNone                Reason = ""
	ReasonInvalidRequest      Reason = "INVALID_REQUEST"
	ReasonSlugTaken           Reason = "SLUG_TAKEN"
	ReasonEmailTaken          Reason = "EMAIL_TAKEN"
	ReasonPackageSlugTaken    Reason = "PACKAGE_SLUG_TAKEN"
	ReasonSegmentSlugTaken    Reason = "SEGMENT_SLUG_TAKEN"
	ReasonExternalIDTaken     Reason = "EXTERNAL_ID_TAKEN"
	ReasonTenantNotFound      Reason = "TENANT_NOT_FOUND"
	ReasonSegmentNotFound     Reason = "SEGMENT_NOT_FOUND"
	ReasonPackageNotFound     Reason = "PACKAGE_NOT_FOUND"
	ReasonAPIKeyNotFound      Reason = "API_KEY_NOT_FOUND"
	ReasonRequestIDReused     Reason = "REQUEST_ID_REUSED"
	ReasonExternalIDSet       Reason = "EXTERNAL_ID_SET"
	ReasonTenantNotDeleted    Reason = "TENANT_NOT_DELETED"
	ReasonAPIKeyEnded         Reason = "API_KEY_ENDED"
	ReasonLastPackage         Reason = "LAST_PACKAGE"
	ReasonDefaultSegment      Reason = "DEFAULT_SEGMENT"
	ReasonSegmentNotEmpty     Reason = "SEGMENT_NOT_EMPTY"
	ReasonUnauthenticated     Reason = "UNAUTHENTICATED"
	ReasonPermissionDenied    Reason = "PERMISSION_DENIED"
	ReasonOverloaded          Reason = "OVERLOADED"
	ReasonQuotaExceeded       Reason = "QUOTA_EXCEEDED"
	ReasonTooManyAttempts     Reason = "TOO_MANY_ATTEMPTS"
	ReasonDatabaseUnavailable Reason = "DATABASE_UNAVAILABLE"
	ReasonConnectionClosing   Reason = "CONNECTION_CLOSING"
	ReasonDeadlineExceeded    Reason = "DEADLINE_EXCEEDED"
	ReasonConflict            Reason = "CONFLICT"
	ReasonETagMismatch        Reason = "ETAG_MISMATCH"
	ReasonCursorExpired       Reason = "CURSOR_EXPIRED"
	ReasonInternal            Reason = "INTERNAL"
)

// Violation is one invalid field of a request. The service reports all of them at once.
type Violation struct {
	// Field is the path of the field, such as packages[3].name.
	Field string
	// Reason is a constant such as MISSING_FIELD or TOO_LONG.
	Reason string
	// Description is for people.
	Description string
}

// Error is what every call of a [Client] returns if it fails. Use it with [errors.As]; status.FromError works, too.
type Error struct {
	Code       codes.Code
	Reason     Reason
	Message    string
	Violations []Violation
	// RetryDelay is how long the service asks to wait before a repeat, if HasRetryDelay.
	RetryDelay    time.Duration
	HasRetryDelay bool
	status        *status.Status
}

func (err *Error) Error() string {
	if err.Reason == ReasonNone {
		return fmt.Sprintf("%s: %s", err.Code, err.Message)
	}
	return fmt.Sprintf("%s / %s: %s", err.Code, err.Reason, err.Message)
}

// GRPCStatus returns the status with all details.
func (err *Error) GRPCStatus() *status.Status { return err.status }

// Is reports whether the target is the error of the context that ended the call.
func (err *Error) Is(target error) bool {
	return err.Code == codes.DeadlineExceeded && target == context.DeadlineExceeded ||
		err.Code == codes.Canceled && target == context.Canceled
}

// toError converts an error of gRPC, and returns nil and io.EOF as they are.
func toError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	grpcStatus, ok := status.FromError(err)
	if !ok {
		return err
	}
	result := &Error{Code: grpcStatus.Code(), Message: grpcStatus.Message(), status: grpcStatus}
	for _, detail := range grpcStatus.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "turnkey" {
				result.Reason = Reason(detail.GetReason())
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				result.Violations = append(result.Violations, Violation{
					Field:       violation.GetField(),
					Reason:      violation.GetReason(),
					Description: violation.GetDescription(),
				})
			}
		case *errdetails.RetryInfo:
			result.RetryDelay, result.HasRetryDelay = detail.GetRetryDelay().AsDuration(), true
		}
	}
	return result
}

// typedStreamErrors is the interceptor that makes streams fail with [*Error].
func typedStreamErrors(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, streamer grpc.Streamer,
	options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, description, connection, method, options...)
	if err != nil {
		return nil, toError(err)
	}
	return typedErrorStream{stream}, nil
}

type typedErrorStream struct{ grpc.ClientStream }

func (stream typedErrorStream) RecvMsg(message any) error {
	return toError(stream.ClientStream.RecvMsg(message))
}
