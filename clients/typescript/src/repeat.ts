// Which calls can be repeated: those whose repeat changes nothing more than the call itself.

import { randomUUID } from "node:crypto";
import { clone, type DescMessage, type DescMethod, type Message } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { MethodOptions_IdempotencyLevel as IdempotencyLevel } from "@bufbuild/protobuf/wkt";

/** Returns a copy of a request whose request_id, and that of each item of a batch, is set. */
export function withRequestIds(schema: DescMessage, request: Message): Message {
  const copy = clone(schema, request);
  for (const part of partsOf(reflect(schema, copy))) {
    const field = fieldNamed(part, "request_id");
    if (field && !part.isSet(field)) part.set(field, randomUUID());
  }
  return copy;
}

/**
 * Whether a call can be repeated. The API says so by an idempotency level and by request ids. Calls that it does not know are
 * not repeated.
 */
export function isRepeatable(method: DescMethod, request: Message): boolean {
  const message = reflect(method.input, request);
  const parts = partsOf(message);
  // The call itself changes the etag, so a repeat would be ETAG_MISMATCH.
  if (parts.some((part) => isSet(part, "etag"))) return false;
  switch (method.name) {
    // They have no idempotency level, because clients may put requests without side effects into URLs.
    case "VerifyApiKey":
    case "VerifyPassword":
      return true;
    case "UpsertPackage":
      return isNamed(message, "package_id");
    case "UpsertSegment":
      return isNamed(message, "segment_id");
    case "BatchUpsertPackages":
      return itemsOf(message).every((item) => isNamed(item, "package_id"));
  }
  if (parts.some((part) => isSet(part, "request_id"))) return true;
  return isSet(message, "allow_missing") || method.idempotency !== IdempotencyLevel.IDEMPOTENCY_UNKNOWN;
}

// Whether an upsert names what it changes. Otherwise each repeat creates another one.
function isNamed(message: ReflectMessage, idField: string): boolean {
  return [idField, "slug", "external_id"].some((name) => isSet(message, name));
}

function partsOf(message: ReflectMessage): ReflectMessage[] {
  return [message, ...itemsOf(message)];
}

// Returns the requests of a batch, which is a request with a list of messages.
function itemsOf(message: ReflectMessage): ReflectMessage[] {
  return message.fields.flatMap((field) =>
    field.fieldKind === "list" && field.listKind === "message" ? [...message.get(field)] : [],
  ) as ReflectMessage[];
}

function fieldNamed(message: ReflectMessage, name: string) {
  return message.fields.find((field) => field.name === name);
}

// Whether a field exists and is neither absent nor its zero value, which these fields treat as absent.
function isSet(message: ReflectMessage, name: string): boolean {
  const field = fieldNamed(message, name);
  return field !== undefined && message.isSet(field) && Boolean(message.get(field));
}
