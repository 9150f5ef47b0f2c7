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

/** A reason is a few words, which may stand behind a report; more of an answer is not read. */
const BODY_BYTES = 1_000_000;
const REASON_CHARACTERS = 300;

/** 4xx that may pass: a timeout, too early, too many requests. */
const PASSING: readonly number[] = [408, 425, 429];

/**
 * Reads an answer. A refusal is `{"refused": "reason"}` with any status that says that the receiver has understood: it
 * is one with 2xx too, since going on after a refusal would be the one mistake that moves traffic against its will. So
 * is going on after an answer that may hold one and can't be read.
 *
 * @param mayRefuse whether the call can be refused; one that can't is done with any 2xx that is no refusal
 */
export async function readAnswer(response: Response, mayRefuse: boolean): Promise<Answer> {
  const { status, headers } = response;
  const retryAfterMs = waitOf(headers.get('retry-after'), Date.now());
  if (status >= 500 || PASSING.includes(status)) return { is: 'again', why: `it answers ${status}`, retryAfterMs };
  const redirects = status >= 300 && status < 400;
  if (redirects) return { is: 'failed', why: `it answers with a redirect (${status}), which is not followed` };
  const understood = response.ok || status === 409 || status === 422;
  const said = understood ? refusalIn(await bodyOf(response)) : {};
  if (said.refusal !== undefined) return { is: 'refused', why: said.refusal };
  if (status === 202) return { is: 'accepted', retryAfterMs };
  if (response.ok && mayRefuse && said.unread !== undefined) {
    return { is: 'failed', why: `whether it refuses can't be read in its answer, which ${said.unread}` };
  }
  if (response.ok) return { is: 'done' };
  // So layers that keep idempotency keys answer while the first request with this key is still at work.
  if (status === 409) return { is: 'again', why: 'it answers 409 without a reason', retryAfterMs };
  return { is: 'failed', why: `it answers ${status}` };
}

interface Body {
  readonly text: string;
  readonly isWhole: boolean;
}

async function bodyOf(response: Response): Promise<Body> {
  if (response.body === null) return { text: '', isWhole: true };
  // It leaves out the byte order mark that some write before JSON.
  const decoder = new TextDecoder();
  let text = '';
  let bytes = 0;
  for await (const chunk of response.body) {
    text += decoder.decode(chunk, { stream: true });
    bytes += chunk.byteLength;
    if (bytes > BODY_BYTES) return { text, isWhole: false };
  }
  return { text: text + decoder.decode(), isWhole: true };
}

/** `unread`: why a text that looks like one with a refusal can't be read. */
function refusalIn({ text, isWhole }: Body): { readonly refusal?: string; readonly unread?: string } {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    if (!text.trimStart().startsWith('{')) return {};
    return { unread: isWhole ? 'begins like JSON and is none' : 'has more than 1 MB' };
  }
  if (typeof json !== 'object' || json === null || !('refused' in json)) return {};
  const { refused } = json;
  if (refused === false || refused === null) return {};
  return { refusal: typeof refused === 'string' && refused.trim() !== '' ? oneLine(refused) : 'it gives no reason' };
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
