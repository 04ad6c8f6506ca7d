// Calls a real server, which scripts/check-clients starts, by the Connect protocol and by gRPC.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { createTurnkeyClient, Reason, TurnkeyError, type TurnkeyClient, type TurnkeyOptions, Verdict } from "turnkey-client";

const environment = process.env;
const skip = environment.TURNKEY_TOKEN ? false : "run scripts/check-clients";

for (const protocol of ["connect", "grpc"] as const) {
  const kind = protocol === "connect" ? "HTTP" : "GRPC";

  function client(url = `TURNKEY_${kind}_URL`, options: Partial<TurnkeyOptions> = {}): TurnkeyClient {
    return createTurnkeyClient({ url: environment[url]!, token: environment.TURNKEY_TOKEN, protocol, ...options });
  }

  function create({ provisioning }: TurnkeyClient, slug: string) {
    return provisioning.createFullyProvisioned({ slug: `typescript-${protocol}-${slug}`, name: "From TypeScript" });
  }

  async function failure(call: Promise<unknown>): Promise<TurnkeyError> {
    const error = await call.then(() => assert.fail("the call succeeded"), (thrown: unknown) => thrown);
    assert(error instanceof TurnkeyError && error instanceof ConnectError);
    return error;
  }

  test(`${protocol}: a create returns the tenant and its secret`, { skip }, async () => {
    const { secretKey, packages, replayed } = await create(client(), "created");
    assert.match(secretKey, /^sk_live_typescript_/);
    assert.equal(packages.length, 3);
    assert.equal(replayed, false);
  });

  test(`${protocol}: a create whose response is lost is repeated and returns the secret`, { skip }, async () => {
    const { secretKey, replayed } = await create(client(`TURNKEY_CUT_${kind}_URL_1`), "lost");
    assert.equal(replayed, true);
    const { verdict } = await client().provisioning.verifyApiKey({ secretKey });
    assert.equal(verdict, Verdict.VALID);
  });

  test(`${protocol}: an upsert that names nothing is not repeated`, { skip }, async () => {
    const tenantId = (await create(client(), "not-repeated")).tenant!.id;
    const request = { tenantId, name: "Gold", basePrice: 1n };
    const error = await failure(client(`TURNKEY_CUT_${kind}_URL_2`).catalog.upsertPackage(request));
    assert.equal(error.code, Code.Unavailable);
    assert.equal((await client().catalog.listPackages({ tenantId })).packages.length, 4);
  });

  test(`${protocol}: a slug that exists has a reason`, { skip }, async () => {
    await create(client(), "taken");
    const error = await failure(create(client(), "taken"));
    assert.deepEqual([error.code, error.reason], [Code.AlreadyExists, Reason.SlugTaken]);
  });

  test(`${protocol}: violations are a list`, { skip }, async () => {
    const { violations } = await failure(client().provisioning.createFullyProvisioned({ slug: "x" }));
    assert.deepEqual(violations.map(({ field, reason }) => [field, reason]), [["slug", "TOO_SHORT"], ["name", "MISSING_FIELD"]]);
  });

  test(`${protocol}: pages are listed`, { skip }, async () => {
    const { catalog } = client();
    const tenantId = (await create(client(), "pages")).tenant!.id;
    const slugs: string[] = [];
    let pageToken = "";
    do {
      const page = await catalog.listPackages({ tenantId, pageSize: 2, pageToken });
      slugs.push(...page.packages.map(({ slug }) => slug));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    assert.deepEqual(slugs, ["basic-package", "standard-package", "premium-package"]);
  });

  test(`${protocol}: a tenant key opens its own catalog only`, { skip }, async () => {
    const own = await create(client(), "own");
    const other = await create(client(), "other");
    const { catalog } = client(undefined, { token: own.secretKey });
    await catalog.listSegments({ tenantId: own.tenant!.id });
    const error = await failure(catalog.listSegments({ tenantId: other.tenant!.id }));
    assert.equal(error.reason, Reason.PermissionDenied);
  });

  test(`${protocol}: a stream fails with a reason`, { skip }, async () => {
    const findings = client().provisioning.checkIntegrity({ tenantId: "x" });
    const error = await failure(findings[Symbol.asyncIterator]().next());
    assert.equal(error.reason, Reason.InvalidRequest);
  });

  test(`${protocol}: a call is encrypted`, { skip }, async () => {
    const tls = { ca: readFileSync(environment.TURNKEY_TLS_CA!) };
    await create(client(`TURNKEY_TLS_${kind}_URL`, { tls }), "encrypted");
  });
}
