import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Router } from './router.js';

/** Carries users' tokens between processes, in a header or a cookie. */
export interface SignedTokens {
  /** What to send along with the user's answer; undefined when nothing is known of the user. Fit for a cookie as it is. */
  encode(router: Router, user: string): string | undefined;
  /**
   * Takes over what came with a user's request.
   *
   * @returns false, having changed nothing, for what is missing, malformed, too long, or not signed for this user.
   */
  decode(router: Router, user: string, text: string | readonly string[] | undefined): boolean;
}

const SHORTEST_SECRET = 16;
const LONGEST_TEXT = 100;
const FORM = /^(\d{1,15})\.([0-9A-F]{1,8})-([0-9A-F]{1,8})\.([\w-]{22})$/;

/**
 * Tokens with a signature, since they come back from outside: a forged one could make this process wait and ask for
 * positions that nobody ever wrote.
 *
 * @param secrets the first one signs, all are accepted: so they can be changed one process at a time.
 * @throws RangeError for a secret of less than 16 characters.
 */
export function signedTokens(secrets: string | readonly string[]): SignedTokens {
  const all = typeof secrets === 'string' ? [secrets] : secrets;
  const [first] = all;
  if (first === undefined || all.some((secret) => secret.length < SHORTEST_SECRET)) {
    throw new RangeError(`tokens are signed with secrets of at least ${SHORTEST_SECRET} characters`);
  }
  return {
    encode: (router, user) => {
      const token = router.exportToken(user);
      if (token === undefined) return undefined;
      const text = token.replace(':', '.').replace('/', '-');
      return `${text}.${signature(first, user, text)}`;
    },
    decode: (router, user, text) => {
      if (typeof text !== 'string' || text.length > LONGEST_TEXT) return false;
      const [, epoch, high, low, signed] = FORM.exec(text) ?? [];
      if (epoch === undefined || high === undefined || low === undefined || signed === undefined) return false;
      const isOurs = all.some((secret) => isEqual(signed, signature(secret, user, `${epoch}.${high}-${low}`)));
      return isOurs && router.importToken(user, `${epoch}:${high}/${low}`);
    },
  };
}

/** 128 bits of it. */
function signature(secret: string, user: string, text: string): string {
  return createHmac('sha256', secret).update(`${text}\n${user}`).digest().subarray(0, 16).toString('base64url');
}

function isEqual(a: string, b: string): boolean {
  return a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
}
