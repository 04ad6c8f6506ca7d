// Repeats calls that failed.

import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, type Interceptor, type StreamResponse, type UnaryRequest, type UnaryResponse } from "@connectrpc/connect";
import { Reason, TurnkeyError } from "./errors.js";
import { isRepeatable, withRequestIds } from "./repeat.js";

const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5_000;

export interface RetryOptions {
  /** Bounds one attempt. 5,000 by default. */
  attemptTimeoutMs?: number;
}

/**
 * The interceptor that repeats unary calls, until they succeed, fail with an error that a repeat does not change, or are out
 * of time. It comes before all others. A stream that has begun cannot be repeated; its errors are converted.
 */
export function retries(options: RetryOptions = {}): Interceptor {
  const attemptTimeoutMs = options.attemptTimeoutMs ?? 5_000;
  return (next) => async (request) => {
    if (request.stream) return typedErrors(next(request));
    const message = withRequestIds(request.method.input, request.message);
    const repeatable = isRepeatable(request.method, message);
    const deadline = performance.now() + timeoutMsOf(request.header);
    for (let backoffMs = FIRST_BACKOFF_MS; ; backoffMs = Math.min(2 * backoffMs, MAX_BACKOFF_MS)) {
      const error = await attempt(next, { ...request, message }, attemptTimeoutMs);
      if (!(error instanceof TurnkeyError)) return error;
      const delayMs = delayOf(error, backoffMs);
      const isFinal = !repeatable || !isTransient(error) || delayMs === undefined;
      if (isFinal || performance.now() + delayMs >= deadline) throw error;
      await sleep(delayMs, undefined, { signal: request.signal }).catch(() => {
        throw error;
      });
    }
  };
}

type Next = Parameters<Interceptor>[0];

async function attempt(next: Next, request: UnaryRequest, timeoutMs: number): Promise<UnaryResponse | TurnkeyError> {
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    // Each attempt has headers of its own, because inner interceptors and the transport change them.
    const header = new Headers(request.header);
    const signal = AbortSignal.any([request.signal, timeout]);
    return (await next({ ...request, header, signal })) as UnaryResponse;
  } catch (thrown) {
    // An attempt that was too slow looks like a call that was canceled.
    if (timeout.aborted) return TurnkeyError.from(new ConnectError("the attempt timed out", Code.DeadlineExceeded));
    const error = TurnkeyError.from(thrown);
    // The transport for Node reports a connection that broke in these two ways.
    const isBroken = [Code.Aborted, Code.Canceled].includes(error.code) && error.reason === undefined;
    if (isBroken && !request.signal.aborted) {
      return TurnkeyError.from(new ConnectError(error.rawMessage, Code.Unavailable, undefined, undefined, error));
    }
    return error;
  }
}

// Returns the time that the caller gives the call, as the header for the server states it. Without one the call has no bound.
function timeoutMsOf(header: Headers): number {
  return Number.parseInt(header.get("connect-timeout-ms") ?? header.get("grpc-timeout") ?? "") || Infinity;
}

// Whether a repeat can succeed. An error without a reason is one of the transport: the connection could not be established, or
// it broke during the call.
function isTransient(error: TurnkeyError): boolean {
  switch (error.code) {
    case Code.Unavailable:
    case Code.DeadlineExceeded:
      return true;
    case Code.Aborted:
      return error.reason === Reason.Conflict;
    case Code.ResourceExhausted:
      return error.reason === Reason.Overloaded;
    case Code.Unknown:
      return error.reason === undefined;
    default:
      return false;
  }
}

// Returns how long to wait before a repeat, or undefined if the server forbids one.
function delayOf(error: TurnkeyError, backoffMs: number): number | undefined {
  const pushback = error.metadata.get("grpc-retry-pushback-ms") ?? "0";
  if (!/^\d+$/.test(pushback)) return undefined;
  // Jitter keeps clients from retrying in step. The delay of the server is a minimum.
  return Math.max(backoffMs * (0.5 + Math.random()), error.retryDelayMs ?? 0, Number(pushback));
}

async function typedErrors(call: ReturnType<Next>): Promise<StreamResponse> {
  try {
    const response = (await call) as StreamResponse;
    return { ...response, message: typedErrorsOf(response.message) as StreamResponse["message"] };
  } catch (error) {
    throw TurnkeyError.from(error);
  }
}

async function* typedErrorsOf<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw TurnkeyError.from(error);
  }
}
