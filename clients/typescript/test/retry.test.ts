// Which calls and which errors are repeated.

import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type DescService } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { BatchCreateFullyProvisionedRequestSchema, PackageCatalog, Reason, retries, TenantProvisioning } from "turnkey-client";
import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { isRepeatable, withRequestIds } from "../src/repeat.js";

function repeatable(service: DescService, name: string, request: Record<string, unknown>): boolean {
  const method = service.methods.find((method) => method.name === name)!;
  return isRepeatable(method, withRequestIds(method.input, create(method.input, request)));
}

test("calls are repeatable by the contract", () => {
  const cases: [DescService, string, Record<string, unknown>, boolean][] = [
    [TenantProvisioning, "GetTenant", {}, true],
    [TenantProvisioning, "SuspendTenant", {}, true],
    [TenantProvisioning, "VerifyPassword", {}, true],
    [TenantProvisioning, "ChangePassword", {}, false],
    [TenantProvisioning, "PurgeTenant", {}, false],
    [TenantProvisioning, "RepairTenant", {}, false],
    [TenantProvisioning, "RotateApiKey", {}, true],
    [TenantProvisioning, "BatchCreateFullyProvisioned", { requests: [{}, {}] }, true],
    [PackageCatalog, "UpsertPackage", { slug: "gold" }, true],
    [PackageCatalog, "UpsertPackage", { slug: "" }, false],
    [PackageCatalog, "UpsertSegment", { segmentId: "1" }, true],
    [PackageCatalog, "UpsertPackage", { segmentId: "1" }, false],
    [PackageCatalog, "BatchUpsertPackages", { packages: [{ slug: "gold" }, {}] }, false],
    [PackageCatalog, "DeletePackage", {}, false],
  ];
  for (const [service, name, request, expected] of cases) {
    assert.equal(repeatable(service, name, request), expected, `${name} ${JSON.stringify(request)}`);
  }
});

test("request ids are added to a copy", () => {
  const schema = BatchCreateFullyProvisionedRequestSchema;
  const requestId = "5f0f0d0e-5a52-4ba5-8cb7-7a3ff2d24ef1";
  const request = create(schema, { requests: [{ requestId }, {}] });
  const sent = withRequestIds(schema, request) as typeof request;
  assert.equal(sent.requests[0]?.requestId, requestId);
  assert.match(sent.requests[1]!.requestId!, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-/);
  assert.equal(request.requests[1]?.requestId, undefined);
});

// Calls GetTenant on a server that fails twice, and returns how often it was called.
async function attemptsUntil(failing: (signal: AbortSignal) => Promise<never>, attemptTimeoutMs = 1_000): Promise<number> {
  let attempts = 0;
  const transport = createRouterTransport(
    ({ rpc }) =>
      rpc(TenantProvisioning.method.getTenant, async (_request, { signal }) => {
        attempts += 1;
        if (attempts < 3) await failing(signal);
        return {};
      }),
    { transport: { interceptors: [retries({ attemptTimeoutMs })], defaultTimeoutMs: 60_000 } },
  );
  await createClient(TenantProvisioning, transport).getTenant({}).catch(() => {});
  return attempts;
}

function failure(code: Code, reason?: Reason): () => Promise<never> {
  const details = reason ? [{ desc: ErrorInfoSchema, value: { domain: "turnkey", reason } }] : [];
  return () => Promise.reject(new ConnectError("", code, undefined, details));
}

test("only transient errors are repeated", async () => {
  assert.equal(await attemptsUntil(failure(Code.Unavailable)), 3);
  assert.equal(await attemptsUntil(failure(Code.DeadlineExceeded)), 3);
  assert.equal(await attemptsUntil(failure(Code.Unknown)), 3);
  assert.equal(await attemptsUntil(failure(Code.Aborted, Reason.Conflict)), 3);
  assert.equal(await attemptsUntil(failure(Code.Aborted, Reason.EtagMismatch)), 1);
  assert.equal(await attemptsUntil(failure(Code.ResourceExhausted, Reason.Overloaded)), 3);
  assert.equal(await attemptsUntil(failure(Code.ResourceExhausted, Reason.TooManyAttempts)), 1);
  assert.equal(await attemptsUntil(failure(Code.Internal)), 1);
});

test("an attempt that is too slow is repeated", async () => {
  const untilAborted = (signal: AbortSignal) =>
    new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  assert.equal(await attemptsUntil(untilAborted, 10), 3);
});

test("the delay of the server is a minimum", async () => {
  const hour = [{ desc: RetryInfoSchema, value: { retryDelay: { seconds: 3600n } } }];
  assert.equal(await attemptsUntil(() => Promise.reject(new ConnectError("", Code.Unavailable, undefined, hour))), 1);
  for (const pushback of ["3600000", "-1"]) {
    const metadata = { "grpc-retry-pushback-ms": pushback };
    assert.equal(await attemptsUntil(() => Promise.reject(new ConnectError("", Code.Unavailable, metadata))), 1);
  }
});
