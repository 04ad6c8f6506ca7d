// The error that every call fails with, and the reason to branch on.

import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** What a program branches on: stable, unlike the message. Each RPC lists its own in its documentation. */
export const Reason = {
  InvalidRequest: "INVALID_REQUEST",
  SlugTaken: "SLUG_TAKEN",
  EmailTaken: "EMAIL_TAKEN",
  PackageSlugTaken: "PACKAGE_SLUG_TAKEN",
  SegmentSlugTaken: "SEGMENT_SLUG_TAKEN",
  ExternalIdTaken: "EXTERNAL_ID_TAKEN",
  TenantNotFound: "TENANT_NOT_FOUND",
  SegmentNotFound: "SEGMENT_NOT_FOUND",
  PackageNotFound: "PACKAGE_NOT_FOUND",
  ApiKeyNotFound: "API_KEY_NOT_FOUND",
  RequestIdReused: "REQUEST_ID_REUSED",
  ExternalIdSet: "EXTERNAL_ID_SET",
  TenantNotDeleted: "TENANT_NOT_DELETED",
  ApiKeyEnded: "API_KEY_ENDED",
  LastPackage: "LAST_PACKAGE",
  DefaultSegment: "DEFAULT_SEGMENT",
  SegmentNotEmpty: "SEGMENT_NOT_EMPTY",
  Unauthenticated: "UNAUTHENTICATED",
  PermissionDenied: "PERMISSION_DENIED",
  Overloaded: "OVERLOADED",
  QuotaExceeded: "QUOTA_EXCEEDED",
  TooManyAttempts: "TOO_MANY_ATTEMPTS",
  DatabaseUnavailable: "DATABASE_UNAVAILABLE",
  ConnectionClosing: "CONNECTION_CLOSING",
  DeadlineExceeded: "DEADLINE_EXCEEDED",
  Conflict: "CONFLICT",
  EtagMismatch: "ETAG_MISMATCH",
  CursorExpired: "CURSOR_EXPIRED",
  Internal: "INTERNAL",
} as const;

/** One of the above, or one that this version does not know. Editors complete the known ones. */
export type Reason = (typeof Reason)[keyof typeof Reason] | (string & {});

/** One invalid field of a request. The service reports all of them at once. */
export interface Violation {
  /** The path of the field, such as packages[3].name. */
  field: string;
  /** A constant such as MISSING_FIELD or TOO_LONG. */
  reason: string;
  /** For people. */
  description: string;
}

/** What every call fails with. It is a ConnectError, with the code and all details. */
export class TurnkeyError extends ConnectError {
  /** Undefined for an error of the transport, such as a server that is unreachable. */
  readonly reason: Reason | undefined;
  readonly violations: readonly Violation[];
  /** How long the service asks to wait before a repeat. */
  readonly retryDelayMs: number | undefined;

  constructor(error: ConnectError) {
    super(error.rawMessage, error.code, error.metadata, undefined, error.cause ?? error);
    this.details = error.details;
    this.reason = this.findDetails(ErrorInfoSchema).find((info) => info.domain === "turnkey")?.reason;
    this.violations = this.findDetails(BadRequestSchema).flatMap((request) =>
      request.fieldViolations.map(({ field, reason, description }) => ({ field, reason, description })),
    );
    const delay = this.findDetails(RetryInfoSchema)[0]?.retryDelay;
    this.retryDelayMs = delay && Number(delay.seconds) * 1000 + delay.nanos / 1_000_000;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Error && Object.getPrototypeOf(value) === TurnkeyError.prototype;
  }

  /** Converts what a transport throws. */
  static override from(error: unknown): TurnkeyError {
    if (error instanceof TurnkeyError) return error;
    return new TurnkeyError(ConnectError.from(error, Code.Unknown));
  }
}
