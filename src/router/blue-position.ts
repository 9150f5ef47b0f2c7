import { Coalesced } from './coalesced.js';
import { parseLsn, type Lsn } from './lsn.js';
import type { SideLink } from './side-link.js';

/**
 * Blue's position now: everything that was committed before the question is at or before it. Not
 * pg_current_wal_insert_lsn(): that can lie past the last flushed byte, which green never reaches while blue is idle.
 *
 * undefined where commits are acknowledged before they are flushed (synchronous_commit = off): then no position is
 * sure to cover them, and such sessions read blue.
 */
export class BluePosition {
  readonly #questions: Coalesced<Lsn | undefined>;

  constructor(link: SideLink) {
    this.#questions = new Coalesced(async () => {
      const [row] = await link.query<{ lsn: string; commit: string }>(POSITION);
      return row === undefined || row.commit === 'off' ? undefined : parseLsn(row.lsn);
    });
  }

  /** @throws LinkDownError when blue does not answer. */
  now(): Promise<Lsn | undefined> {
    return this.#questions.ask();
  }
}

export const POSITION = `
  SELECT pg_catalog.pg_current_wal_flush_lsn()::text AS lsn, pg_catalog.current_setting('synchronous_commit') AS commit`;
