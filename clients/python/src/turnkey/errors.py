"""The error that every call raises, with the reason to branch on."""

from dataclasses import dataclass
from enum import Enum

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Reason(str, Enum):
    """What a program branches on: stable, unlike the message. Each RPC lists its own in its documentation."""

    INVALID_REQUEST = "INVALID_REQUEST"
    SLUG_TAKEN = "SLUG_TAKEN"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    PACKAGE_SLUG_TAKEN = "PACKAGE_SLUG_TAKEN"
    SEGMENT_SLUG_TAKEN = "SEGMENT_SLUG_TAKEN"
    EXTERNAL_ID_TAKEN = "EXTERNAL_ID_TAKEN"
    TENANT_NOT_FOUND = "TENANT_NOT_FOUND"
    SEGMENT_NOT_FOUND = "SEGMENT_NOT_FOUND"
    PACKAGE_NOT_FOUND = "PACKAGE_NOT_FOUND"
    API_KEY_NOT_FOUND = "API_KEY_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    EXTERNAL_ID_SET = "EXTERNAL_ID_SET"
    TENANT_NOT_DELETED = "TENANT_NOT_DELETED"
    API_KEY_ENDED = "API_KEY_ENDED"
    LAST_PACKAGE = "LAST_PACKAGE"
    DEFAULT_SEGMENT = "DEFAULT_SEGMENT"
    SEGMENT_NOT_EMPTY = "SEGMENT_NOT_EMPTY"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    OVERLOADED = "OVERLOADED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    CONNECTION_CLOSING = "CONNECTION_CLOSING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CONFLICT = "CONFLICT"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class Violation:
    """One invalid field of a request. The service reports all of them at once."""

    field: str
    """The path of the field, such as `packages[3].name`."""
    reason: str
    """A constant such as `MISSING_FIELD` or `TOO_LONG`."""
    description: str
    """For people."""


class Error(grpc.RpcError):
    """What every call raises if it fails."""

    reason: str
    """A `Reason`, or the text of one that this version does not know. Empty for an error of gRPC itself, such as a server
    that is unreachable."""
    violations: tuple[Violation, ...]
    retry_delay_s: float | None
    """How long the service asks to wait before a repeat."""

    def __init__(self, call: grpc.Call) -> None:
        self._code, self._details = call.code(), call.details() or ""
        self._trailing_metadata = call.trailing_metadata() or ()
        self.reason, self.violations, self.retry_delay_s = "", (), None
        status = rpc_status.from_call(call)
        for detail in status.details if status else ():
            self._read(detail)
        super().__init__(" / ".join(filter(None, [self._code.name, self.reason])) + f": {self._details}")

    def _read(self, detail) -> None:
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info) and info.domain == "turnkey":
            self.reason = Reason.__members__.get(info.reason, info.reason)
        elif detail.Unpack(request):
            self.violations = tuple(Violation(v.field, v.reason, v.description) for v in request.field_violations)
        elif detail.Unpack(retry):
            self.retry_delay_s = retry.retry_delay.ToTimedelta().total_seconds()

    def code(self) -> grpc.StatusCode:
        """Returns the gRPC code."""
        return self._code

    def details(self) -> str:
        """Returns the message, which is for people."""
        return self._details

    def trailing_metadata(self):
        """Returns the trailers."""
        return self._trailing_metadata
