import { MeasurementFailed } from './measurement.js';

/** Something that answers over HTTP, as the worker reaches it. Never logged. */
export interface HttpEndpoint {
  /** The plan's name of the connection, and which of its addresses: all that evidence and errors may show. */
  readonly name: string;
  readonly url: string;
  /** The header Authorization, where it takes one. */
  readonly authorization?: string;
}

export interface HttpRequest {
  /** Appended to the address' path. */
  readonly path?: string;
  /** A form to be sent; without one it is a GET. */
  readonly form?: Readonly<Record<string, string>>;
  /** For the whole answer, its body included. */
  readonly timeoutMs: number;
  readonly maxBytes: number;
  readonly signal?: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

/**
 * Asks once. An answer that takes too long or is too large is cut off. Redirects are not followed: the secret would go
 * to whoever is named there.
 *
 * @throws MeasurementFailed when there is no answer; the signal's reason when that is aborted.
 */
export async function ask(endpoint: HttpEndpoint, request: HttpRequest): Promise<HttpAnswer> {
  const { path = '', form, timeoutMs, maxBytes, signal } = request;
  const limit = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(endpoint.url.replace(/\/$/, '') + path, {
      method: form === undefined ? 'GET' : 'POST',
      redirect: 'manual',
      signal: signal === undefined ? limit : AbortSignal.any([limit, signal]),
      headers: {
        accept: form === undefined ? 'text/plain' : 'application/json',
        ...(endpoint.authorization === undefined ? {} : { authorization: endpoint.authorization }),
      },
      ...(form === undefined ? {} : { body: new URLSearchParams(form) }),
    });
    if (response.status >= 300 && response.status < 400) {
      await response.body?.cancel();
      throw new MeasurementFailed(`${endpoint.name} redirects (HTTP ${response.status}): give the final address`);
    }
    return { status: response.status, body: await readBody(endpoint.name, response, maxBytes) };
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof MeasurementFailed) throw error;
    if (limit.aborted) throw new MeasurementFailed(`${endpoint.name} has not answered within ${timeoutMs} ms`);
    throw new MeasurementFailed(`${endpoint.name} can't be reached (${codeOf(error)})`);
  }
}

async function readBody(name: string, response: Response, maxBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += chunk.byteLength;
    // Leaving the loop cancels the answer.
    if (bytes > maxBytes) throw new MeasurementFailed(`the answer of ${name} is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** A code such as ECONNREFUSED. Messages of the network may hold an address. */
function codeOf(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  const code = (cause as { readonly code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'no connection';
}
