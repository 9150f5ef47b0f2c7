import type { Session } from '../session.js';
import { isSessionLost } from '../sqlstate.js';

/** A large table that has no such row is not read to its end. */
const LOOK_MS = 2_000;
/** All looks of one check. */
const TOGETHER_MS = 15_000;

/**
 * Whether a SELECT finds a row, within two seconds. It writes nothing.
 *
 * @param searchPath in which its names are found. Default: that of the session
 * @returns undefined where it can't be told: it takes too long, policies hide rows, an expression in it fails
 */
export async function finds(session: Session, select: string, searchPath?: string): Promise<boolean | undefined> {
  await session.query(`BEGIN READ ONLY; SET LOCAL statement_timeout = ${LOOK_MS}; SET LOCAL lock_timeout = ${LOOK_MS}`);
  try {
    if (searchPath !== undefined) await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    const { rowCount } = await session.query(select);
    return (rowCount ?? 0) > 0;
  } catch (error) {
    if (isSessionLost(error)) throw error;
    return undefined;
  } finally {
    await session.query('ROLLBACK');
  }
}

/** @returns whether the looks that follow this call have taken so long together that there should be no more of them */
export function lookTogether(): () => boolean {
  const began = performance.now();
  return () => performance.now() - began > TOGETHER_MS;
}
