/** What an answer means. The contract with receivers; docs/webhooks.md has it in words. */
export type Answer =
  | { readonly is: 'done' }
  /** Taken, and not effective yet: the same call asks again. */
  | { readonly is: 'accepted'; readonly retryAfterMs: number | null }
  | { readonly is: 'refused'; readonly why: string }
  /** It may pass by itself. */
  | { readonly is: 'again'; readonly why: string; readonly retryAfterMs: number | null }
  /** It does not pass by itself: somebody must mend the receiver, the address or the secret. */
  | { readonly is: 'failed'; readonly why: string };

/** A reason is a few words; more of an answer is not read. */
const BODY_BYTES = 16_384;
const REASON_CHARACTERS = 300;

/** 4xx that may pass: a timeout, too early, too many requests. */
const PASSING: readonly number[] = [408, 425, 429];

/**
 * Reads an answer. A refusal is `{"refused": "reason"}` with any status that says that the receiver has understood: it
 * is one with 2xx too, since going on after a refusal would be the one mistake that moves traffic against its will.
 */
export async function readAnswer(response: Response): Promise<Answer> {
  const { status, headers } = response;
  const retryAfterMs = waitOf(headers.get('retry-after'), Date.now());
  if (status >= 500 || PASSING.includes(status)) return { is: 'again', why: `it answers ${status}`, retryAfterMs };
  const redirects = status >= 300 && status < 400;
  if (redirects) return { is: 'failed', why: `it answers with a redirect (${status}), which is not followed` };
  const understood = response.ok || status === 409 || status === 422;
  const refusal = understood ? refusalIn(await beginningOf(response)) : undefined;
  if (refusal !== undefined) return { is: 'refused', why: refusal };
  if (status === 202) return { is: 'accepted', retryAfterMs };
  if (response.ok) return { is: 'done' };
  // So layers that keep idempotency keys answer while the first request with this key is still at work.
  if (status === 409) return { is: 'again', why: 'it answers 409 without a reason', retryAfterMs };
  return { is: 'failed', why: `it answers ${status}` };
}

async function beginningOf(response: Response): Promise<string> {
  if (response.body === null) return '';
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body) {
    chunks.push(chunk);
    bytes += chunk.byteLength;
    if (bytes >= BODY_BYTES) break;
  }
  return Buffer.concat(chunks).toString('utf8');
}

function refusalIn(text: string): string | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof json !== 'object' || json === null || !('refused' in json)) return undefined;
  const { refused } = json;
  if (refused === false || refused === null) return undefined;
  return typeof refused === 'string' && refused.trim() !== '' ? oneLine(refused) : 'it gives no reason';
}

/** Text of somebody else's that people will read in a status, in a terminal, in a browser. */
function oneLine(text: string): string {
  const line = text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\s]+/gu, ' ').trim();
  const characters = Array.from(line);
  return characters.length <= REASON_CHARACTERS ? line : `${characters.slice(0, REASON_CHARACTERS - 1).join('')}…`;
}

/** `Retry-After`: seconds or a date. Null where there is none that can be read. */
function waitOf(retryAfter: string | null, now: number): number | null {
  if (retryAfter === null) return null;
  if (/^\s*\d+\s*$/.test(retryAfter)) return Number(retryAfter) * 1_000;
  const at = Date.parse(retryAfter);
  return Number.isNaN(at) ? null : Math.max(0, at - now);
}
