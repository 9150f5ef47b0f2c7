import type { Side } from '../side.js';
import type { ShownDatabase } from './console.js';
import { isSameTarget, type Fallback } from './instance.js';
import type { PgBouncers } from './pgbouncer.js';

/**
 * Entries that lead to where a side is, and are not moved with those of the plan: their clients stay there. By what is
 * written: a server that has two names counts as two.
 *
 * @param shown every entry that the PgBouncer has
 * @param fallback its entry `*`; undefined without one
 * @returns their names, `*` among them where it can lead there
 */
export function leftBehind(
  { databases, aliases }: PgBouncers,
  side: Side,
  shown: readonly ShownDatabase[],
  fallback: Fallback | undefined,
): string[] {
  const there = shown.find(({ name }) => name === aliases[side]);
  if (there === undefined) return [];
  const known = [...databases, aliases.blue, aliases.green];
  const names = shown.filter((row) => !known.includes(row.name) && isSameTarget(row, there)).map(({ name }) => name);
  return leadsTo(there, shown, fallback) ? [...names, '*'] : names;
}

/** Without a dbname of its own, `*` leads to the database that the client names, unless an entry has that name. */
function leadsTo(there: ShownDatabase, shown: readonly ShownDatabase[], fallback: Fallback | undefined): boolean {
  if (fallback?.host !== there.host || fallback.port !== there.port) return false;
  if (fallback.database !== undefined) return fallback.database === there.database;
  return !shown.some(({ name }) => name === there.database);
}
