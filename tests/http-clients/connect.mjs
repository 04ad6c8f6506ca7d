// Calls Turnkey with the stock Connect client for Node: HTTP/1.1 and HTTP/2, JSON and binary, unary and streaming.
// Usage: node connect.mjs URL DESCRIPTORS, where DESCRIPTORS is the file that `buf build -o` writes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";

const [baseUrl, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));

async function failure(call) {
  const error = await call().then(() => assert.fail("the call succeeded"), ConnectError.from);
  const reason = error.details.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug.reason;
  return [error.code, reason];
}

async function collect(stream) {
  const messages = [];
  for await (const message of stream) messages.push(message);
  return messages;
}

for (const httpVersion of ["1.1", "2"]) {
  for (const useBinaryFormat of [false, true]) {
    const transport = createConnectTransport({ baseUrl, httpVersion, useBinaryFormat });
    const provisioning = createClient(registry.getService("turnkey.v1.TenantProvisioning"), transport);
    const catalog = createClient(registry.getService("turnkey.v1.PackageCatalog"), transport);
    const slug = `node-http-${httpVersion[0]}-${useBinaryFormat ? "binary" : "json"}`;

    const created = await provisioning.createFullyProvisioned({ slug, name: "From Node" });
    assert.match(created.secretKey, /^sk_live_node_/);
    assert.equal(created.packages.length, 3);
    const tenantId = created.tenant.id;
    const { package: gold } = await catalog.upsertPackage({ tenantId, name: "Gold", basePrice: 250000n });
    assert.equal(gold.basePrice, 250000n);

    assert.deepEqual(await collect(provisioning.checkIntegrity({ tenantId })), []);
    const taken = await failure(() => provisioning.createFullyProvisioned({ slug, name: "From Node" }));
    assert.deepEqual(taken, [Code.AlreadyExists, "SLUG_TAKEN"]);
    const invalid = await failure(() => collect(provisioning.checkIntegrity({ tenantId: "x" })));
    assert.deepEqual(invalid, [Code.InvalidArgument, "INVALID_REQUEST"]);
    console.log(`${slug}: created, called and streamed`);
  }
}
