"""Which calls can be repeated: those whose repeat changes nothing more than the call itself."""

import uuid

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message


def with_request_ids(request: Message) -> Message:
    """Returns a copy of a request whose request_id, and that of each item of a batch, is set."""
    copy = type(request)()
    copy.CopyFrom(request)
    for part in (copy, *_items(copy)):
        if "request_id" in part.DESCRIPTOR.fields_by_name and not part.HasField("request_id"):
            part.request_id = str(uuid.uuid4())
    return copy


def is_repeatable(method: str, request: Message) -> bool:
    """Returns whether a call can be repeated.

    The API says so by an idempotency level and by request ids. Calls that it does not know are not repeated.
    """
    parts = (request, *_items(request))
    # The call itself changes the etag, so a repeat would be ETAG_MISMATCH.
    if any(_is_set(part, "etag") for part in parts):
        return False
    match method.rsplit("/", 1)[-1]:
        case "VerifyApiKey" | "VerifyPassword":
            # They have no idempotency level, because clients may put requests without side effects into URLs.
            return True
        case "UpsertPackage":
            return _is_named(request, "package_id")
        case "UpsertSegment":
            return _is_named(request, "segment_id")
        case "BatchUpsertPackages":
            return all(_is_named(item, "package_id") for item in _items(request))
    if any(_is_set(part, "request_id") for part in parts):
        return True
    return _is_set(request, "allow_missing") or _idempotency_level(method) != MethodOptions.IDEMPOTENCY_UNKNOWN


def _is_named(message: Message, id_field: str) -> bool:
    """Returns whether an upsert names what it changes. Otherwise each repeat creates another one."""
    return any(_is_set(message, name) for name in (id_field, "slug", "external_id"))


def _idempotency_level(method: str) -> int:
    try:
        descriptor = descriptor_pool.Default().FindMethodByName(method.lstrip("/").replace("/", "."))
    except KeyError:
        return MethodOptions.IDEMPOTENCY_UNKNOWN
    return descriptor.GetOptions().idempotency_level


def _items(message: Message) -> list[Message]:
    """Returns the requests of a batch, which is a request with a list of messages."""
    lists = [field.name for field in message.DESCRIPTOR.fields if field.is_repeated and field.message_type]
    return [item for name in lists for item in getattr(message, name) if isinstance(item, Message)]


def _is_set(message: Message, name: str) -> bool:
    """Returns whether a field exists and is neither absent nor its zero value, which these fields treat as absent."""
    return bool(getattr(message, name, None))
