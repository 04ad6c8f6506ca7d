// Calls Turnkey from pages in a real browser: a page of an allowed origin, one of another origin, and one of a host name
// that an attacker has rebound to the server's address. Usage: node browser.mjs URL ALLOWED_ORIGIN CHROMIUM
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, allowedOrigin, chromium] = process.argv.slice(2);
const create = "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned";

const pages = createServer((_request, response) => response.end("<!doctype html><title>A page</title>"));
pages.listen(0, "127.0.0.1");
await once(pages, "listening");

const profile = mkdtempSync(join(tmpdir(), "turnkey-browser-"));
const address = `127.0.0.1:${pages.address().port}`;
const browser = spawn(
  chromium,
  [
    "--headless",
    "--no-sandbox", // Chromium refuses to run as root with it.
    "--disable-gpu",
    "--no-proxy-server",
    `--user-data-dir=${profile}`,
    `--host-resolver-rules=MAP ${new URL(allowedOrigin).hostname} ${address},MAP evil.example ${address},MAP rebound.example ${new URL(url).host}`,
    "--remote-debugging-pipe",
  ],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);
const exited = once(browser, "exit");
setTimeout(() => {
  console.error("browser: no result within a minute");
  browser.kill("SIGKILL");
  process.exit(1);
}, 60_000).unref();

// The Chrome DevTools Protocol: JSON, each message ended by a NUL.
const [, , , toBrowser, fromBrowser] = browser.stdio;
const waiting = new Map();
const statuses = [];
let received = "";
fromBrowser.setEncoding("utf8").on("data", (text) => {
  const messages = (received + text).split("\0");
  received = messages.pop();
  for (const message of messages.map(JSON.parse)) {
    waiting.get(message.id)?.(message);
    if (message.method === "Network.responseReceivedExtraInfo") statuses.push(message.params.statusCode);
  }
});
let lastId = 0;
async function send(method, params = {}, sessionId = undefined) {
  const id = ++lastId;
  const answered = new Promise((resolve) => waiting.set(id, resolve));
  toBrowser.write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  const ended = exited.then(() => ({ error: { message: "the browser has exited" } }));
  const { result, error } = await Promise.race([answered, ended]);
  assert.equal(error, undefined, `${method}: ${error?.message}`);
  return result;
}

// Opens a page and returns a function that runs a function in it.
async function open(pageUrl) {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  await send("Network.enable", {}, sessionId);
  await send("Page.navigate", { url: pageUrl }, sessionId);
  return async (body, ...values) => {
    const expression = `(${body})(${values.map((value) => JSON.stringify(value)).join(",")})`;
    const options = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await send("Runtime.evaluate", options, sessionId);
    assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
    return result.value;
  };
}

async function call(url, headers, body) {
  try {
    const request = { method: "POST", headers: { "content-type": "application/json", ...headers }, body };
    const response = await fetch(url, request);
    const replayed = response.headers.get("idempotent-replayed");
    return { origin: location.origin, status: response.status, replayed, body: await response.json() };
  } catch (error) {
    return { origin: location.origin, blocked: error.name };
  }
}

const tenant = (slug) => JSON.stringify({ slug, name: "From a browser" });
const exists = async (slug) => {
  const headers = { "content-type": "application/json" };
  const path = "/turnkey.v1.TenantProvisioning/GetTenant";
  return (await fetch(url + path, { method: "POST", headers, body: JSON.stringify({ slug }) })).status === 200;
};

try {
  const allowed = await open(allowedOrigin);
  const connect = { "connect-protocol-version": "1", "connect-timeout-ms": "10000", authorization: "Bearer none" };
  const created = await allowed(call, url + create, connect, tenant("from-browser"));
  assert.deepEqual([created.origin, created.status], [allowedOrigin, 200]);
  assert.match(created.body.secretKey, /^sk_live_/);
  const key = { "idempotency-key": crypto.randomUUID() };
  for (const replayed of [null, "true"]) {
    const response = await allowed(call, `${url}/api/v1/admin/tenants`, key, tenant("from-browser-form"));
    assert.deepEqual([response.status, response.replayed], [201, replayed]);
  }
  console.log("browser: a page of an allowed origin has called");

  const evil = await open("http://evil.example/");
  statuses.length = 0;
  assert.deepEqual(await evil(call, url + create, {}, tenant("from-evil")), {
    origin: "http://evil.example",
    blocked: "TypeError",
  });
  assert.deepEqual(statuses, [403], "the preflight");
  // Without a preflight, as a form would be sent.
  const post = async (url, body) => (await fetch(url, { method: "POST", mode: "no-cors", body })).type;
  assert.equal(await evil(post, url + create, tenant("from-evil")), "opaque");
  assert.deepEqual(statuses, [403, 403]);
  assert.equal(await exists("from-evil"), false);
  console.log("browser: a page of another origin is refused");

  // The server is of the same origin for this page, so that the browser permits every call.
  const rebound = await open("http://rebound.example/healthz");
  const refused = await rebound(call, create, {}, tenant("from-rebound"));
  assert.deepEqual([refused.origin, refused.status], ["http://rebound.example", 403]);
  assert.match(refused.body.message, /Host/);
  assert.equal(await exists("from-rebound"), false);
  console.log("browser: a rebound host name is refused");
} finally {
  toBrowser.write(JSON.stringify({ id: ++lastId, method: "Browser.close" }) + "\0");
  await exited;
  pages.close();
  pages.closeAllConnections();
  rmSync(profile, { recursive: true, force: true, maxRetries: 3 });
}
