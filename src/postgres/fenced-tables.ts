import type { TableName } from '../plan/table-name.js';
import { readUnmovedTables } from './catalog-unmoved.js';
import type { TablePatterns } from './catalog-pattern.js';
import { readTables } from './catalog.js';
import type { Session } from './session.js';

/**
 * The tables of a side that need a fence: every ordinary and partitioned table at every level that the plan moves, since a
 * write may name any; and its unlogged ones, whose rows do not move: a session that has not heard of the promotion would
 * be told that its write is done, where nobody will ever look for it.
 */
export async function readFencedTables(session: Session, patterns: TablePatterns): Promise<TableName[]> {
  const unlogged = (await readUnmovedTables(session, patterns)).filter(({ kind }) => kind === 'unlogged');
  return [...(await readTables(session, patterns)), ...unlogged].map(({ name }) => name);
}
