package turnkey

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// retrier repeats a call until it succeeds, fails with an error that a repeat does not change, or is out of time.
type retrier struct {
	timeout        time.Duration
	attemptTimeout time.Duration
}

// intercept is a [grpc.UnaryClientInterceptor].
func (retries retrier) intercept(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoker grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, retries.timeout)
		defer cancel()
	}
	message := withRequestIDs(request.(proto.Message))
	repeatable := isRepeatable(method, message)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		var trailer metadata.MD
		attempt, cancel := context.WithTimeout(ctx, retries.attemptTimeout)
		err := toError(invoker(attempt, method, message, reply, connection, append(options, grpc.Trailer(&trailer))...))
		cancel()
		failure, ok := err.(*Error)
		if !ok || !repeatable || !isTransient(failure) {
			return err
		}
		delay, forbidden := serverDelay(failure, trailer)
		// Jitter keeps clients from retrying in step. The delay of the server is a minimum.
		delay = max(delay, time.Duration(float64(backoff)*(0.5+rand.Float64())))
		if deadline, _ := ctx.Deadline(); forbidden || time.Until(deadline) <= delay {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}

// isTransient reports whether a repeat can succeed. An error without a reason is one of gRPC: the connection could not be
// established, or it broke during the call.
func isTransient(err *Error) bool {
	switch err.Code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.Aborted:
		return err.Reason == ReasonConflict
	case codes.ResourceExhausted:
		return err.Reason == ReasonOverloaded
	case codes.Unknown:
		return err.Reason == ReasonNone
	default:
		return false
	}
}

// serverDelay returns the delay that the server asks for, and whether it forbids a repeat.
func serverDelay(err *Error, trailer metadata.MD) (delay time.Duration, forbidden bool) {
	delay = err.RetryDelay
	if values := trailer.Get("grpc-retry-pushback-ms"); len(values) > 0 {
		pushbackMS, parseErr := strconv.Atoi(values[0])
		if parseErr != nil || pushbackMS < 0 {
			return 0, true
		}
		delay = max(delay, time.Duration(pushbackMS)*time.Millisecond)
	}
	return delay, false
}
