import { formatLsn, parseLsn, type Lsn } from './lsn.js';

/** Where a user's last write is: a position in the log of the side that had writes at that epoch. */
export interface Token {
  readonly epoch: number;
  readonly lsn: Lsn;
}

/** No log has a position from here on. Such a token says that no position covers its user's last write. */
const NO_POSITION = 0xffff_ffffn << 32n;

/** A token of a write that no position is known to cover: only the side that took it is sure to show it. Each is another one. */
export function uncoveredToken(epoch: number): Token {
  return { epoch, lsn: (NO_POSITION + BigInt(Math.floor(Math.random() * 2 ** 32))) as Lsn };
}

export function isUncovered(token: Token): boolean {
  return token.lsn >= NO_POSITION;
}

/** The form in which a token travels with its user: `epoch:lsn`. */
export function formatToken(token: Token): string {
  return `${token.epoch}:${formatLsn(token.lsn)}`;
}

/** Reads a token that came from outside; undefined for anything malformed, since it may come from a user's cookie. */
export function parseToken(text: string): Token | undefined {
  const [epochText, lsnText, ...rest] = text.split(':');
  if (epochText === undefined || lsnText === undefined || rest.length > 0 || !/^\d{1,15}$/.test(epochText)) {
    return undefined;
  }
  const lsn = parseLsn(lsnText);
  return lsn === undefined ? undefined : { epoch: Number(epochText), lsn };
}
