import { isUnknownName, isUnknownSetting } from './sqlstate.js';

/*
 * Bodies of functions are mostly read when they run: one that names something without its schema works where the
 * search_path leads there, and fails where it is empty, as in index builds, COPY and replication.
 */

/**
 * Whether a function has not found a name, whatever the row: statements of ours and of pg_dump write the schema to each.
 * Words of the context depend on the server's language; that of COPY itself, for a value of type regclass that names
 * nothing, begins with COPY in all of them. Functions of ours compute what the plan says, of the row.
 */
export function isNameInFunction(error: unknown): boolean {
  if (!isUnknownName(error) || typeof error !== 'object' || error === null || !('where' in error)) return false;
  const { where } = error;
  return typeof where === 'string' && !/^COPY /.test(where) && !where.includes('verdigris.up_down_');
}

/** What to do about it when rows are refused: both sides apply rows, one after the other. */
export function mendFunction(error: unknown): string {
  return isUnknownSetting(error) ? GIVE_SETTING : NAME_SCHEMAS;
}

const GIVE_SETTING =
  'no row is to blame: an expression of the table (a CHECK, a generated column, a domain) calls a function that reads a setting which only sessions of the application have. ALTER DATABASE ... SET it on green and on blue, or write current_setting(..., true) there, then resume';

const NAME_SCHEMAS =
  'no row is to blame: an expression of the table (a CHECK, a generated column, a domain) calls a function that names something without its schema. ALTER FUNCTION ... SET search_path = ... on green and on blue, with the schemas of what it names, then resume';
