// Calls Turnkey, the service that provisions the tenants of a booking platform.

export { createTurnkeyClient, type TurnkeyClient, type TurnkeyOptions } from "./client.js";
export { Reason, TurnkeyError, type Violation } from "./errors.js";
export { retries, type RetryOptions } from "./retry.js";
export * from "./gen/turnkey/v1/event_pb.js";
export * from "./gen/turnkey/v1/package_pb.js";
export * from "./gen/turnkey/v1/package_catalog_pb.js";
export * from "./gen/turnkey/v1/segment_pb.js";
export * from "./gen/turnkey/v1/tenant_pb.js";
export * from "./gen/turnkey/v1/tenant_provisioning_pb.js";
