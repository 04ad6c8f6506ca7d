"""Sends the credential and repeats calls that failed."""

import random
import time
from collections import namedtuple
from dataclasses import dataclass

import grpc

from turnkey.errors import Error, Reason
from turnkey.repeat import is_repeatable, with_request_ids

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5

_FIELDS = ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")


@dataclass(frozen=True)
class Limits:
    """Bounds of a call with all its attempts, and of one attempt, in seconds."""

    timeout_s: float
    attempt_timeout_s: float


class _CallDetails(namedtuple("_CallDetails", _FIELDS), grpc.ClientCallDetails):
    pass


class CallInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends the credential with every call, repeats unary calls, and raises `Error`."""

    def __init__(self, token: str | None, limits: Limits) -> None:
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._limits = limits

    def intercept_unary_unary(self, continuation, client_call_details, request):
        """Repeats the call until it succeeds, fails with an error that a repeat does not change, or is out of time."""
        request = with_request_ids(request)
        repeatable = is_repeatable(client_call_details.method, request)
        timeout_s = client_call_details.timeout
        deadline = time.monotonic() + (self._limits.timeout_s if timeout_s is None else timeout_s)
        backoff_s = FIRST_BACKOFF_S
        while True:
            attempt_s = min(self._limits.attempt_timeout_s, deadline - time.monotonic())
            call = continuation(self._details(client_call_details, timeout=attempt_s), request)
            failure = call.exception()
            if failure is None:
                return call
            if not isinstance(failure, grpc.Call):
                raise failure
            error = Error(failure)
            delay_s = _delay_s(error, backoff_s)
            is_final = not repeatable or not _is_transient(error) or delay_s is None
            if is_final or time.monotonic() + delay_s >= deadline:
                raise error from failure
            time.sleep(delay_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    def intercept_unary_stream(self, continuation, client_call_details, request):
        """Calls once. A stream that has begun cannot be repeated."""
        return _Stream(continuation(self._details(client_call_details), request))

    def _details(self, details, **changes):
        values = {name: getattr(details, name, None) for name in _FIELDS} | changes
        values["metadata"] = [*(values["metadata"] or ()), *self._metadata]
        return _CallDetails(**values)


def _is_transient(error):
    """Whether a repeat can succeed. An error without a reason is one of gRPC: the connection could not be established, or it
    broke during the call."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return True
        case grpc.StatusCode.ABORTED:
            return error.reason == Reason.CONFLICT
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error.reason == Reason.OVERLOADED
        case grpc.StatusCode.UNKNOWN:
            return not error.reason
    return False


def _delay_s(error, backoff_s):
    """Returns how long to wait before a repeat, or None if the server forbids one."""
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms", "0")
    if not pushback.isdigit():
        return None
    # Jitter keeps clients from retrying in step. The delay of the server is a minimum.
    return max(backoff_s * random.uniform(0.5, 1.5), error.retry_delay_s or 0, int(pushback) / 1000)


class _Stream:
    """The messages of a stream, which raises `Error`. Everything else is the call of gRPC."""

    def __init__(self, call) -> None:
        self._call = call

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._call)
        except grpc.RpcError as failure:
            raise Error(failure) from failure

    def __getattr__(self, name):
        return getattr(self._call, name)
