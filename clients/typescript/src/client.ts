// The client: one transport with the stubs of both services.

import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { PackageCatalog } from "./gen/turnkey/v1/package_catalog_pb.js";
import { TenantProvisioning } from "./gen/turnkey/v1/tenant_provisioning_pb.js";
import { retries, type RetryOptions } from "./retry.js";

export interface TurnkeyOptions extends RetryOptions {
  /** Such as https://turnkey.example.com:8080. With http, the connection is plaintext. */
  url: string;
  /** "connect" (default) for the HTTP address of the server, "grpc" for its gRPC address. */
  protocol?: "connect" | "grpc";
  /** A service token, or a tenant's own secret key. */
  token?: string;
  /** Options of node:tls, such as `ca`, and `cert` and `key` to authenticate the caller instead of a token. */
  tls?: { ca?: string | Buffer; cert?: string | Buffer; key?: string | Buffer };
  /** Bounds a call with all its attempts, unless the call has a `timeoutMs` of its own. 30,000 by default. */
  timeoutMs?: number;
}

export interface TurnkeyClient {
  provisioning: Client<typeof TenantProvisioning>;
  catalog: Client<typeof PackageCatalog>;
}

/**
 * Creates a client. It repeats a call that failed if a repeat cannot change something twice, and fails with TurnkeyError.
 * It connects at the first call, and again after each failure.
 */
export function createTurnkeyClient(options: TurnkeyOptions): TurnkeyClient {
  const interceptors = [retries(options)];
  if (options.token !== undefined) interceptors.push(bearer(options.token));
  const transport = createTransport(options, interceptors);
  return { provisioning: createClient(TenantProvisioning, transport), catalog: createClient(PackageCatalog, transport) };
}

function createTransport(options: TurnkeyOptions, interceptors: Interceptor[]): Transport {
  const shared = {
    baseUrl: options.url.replace(/\/$/, ""),
    interceptors,
    nodeOptions: options.tls ?? {},
    defaultTimeoutMs: options.timeoutMs ?? 30_000,
  };
  if (options.protocol === "grpc") return createGrpcTransport(shared);
  return createConnectTransport({ ...shared, httpVersion: "2" });
}

function bearer(token: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
}
