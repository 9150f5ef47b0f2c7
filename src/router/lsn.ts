/** A position in the write-ahead log, as a number that can be compared. */
export type Lsn = bigint & { readonly __unit: 'lsn' };

/** The lowest position: every database has reached it. */
export const LSN_ZERO = 0n as Lsn;

/** Reads PostgreSQL's form of a position, such as `16/B374D848`; undefined when the text is none. */
export function parseLsn(text: string): Lsn | undefined {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  const [, high, low] = match ?? [];
  if (high === undefined || low === undefined) return undefined;
  return ((BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)) as Lsn;
}

/** Writes a position as PostgreSQL does. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase();
}
