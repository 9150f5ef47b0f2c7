import { formatLsn, parseLsn, type Lsn } from './lsn.js';

/** Where a user's last write is: a position in the log of the side that had writes at that epoch. */
export interface Token {
  readonly epoch: number;
  readonly lsn: Lsn;
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
