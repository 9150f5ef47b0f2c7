import type { Session } from './session.js';

/** Tables that were made after the fence was armed. */
export function newTablesSql(known: readonly number[]): string {
  return `SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
             AND n.nspname NOT IN ('information_schema', 'verdigris')
             AND c.oid <> ALL ('{${known.join(',')}}'::oid[])`;
}

/** The tables that are there now, by oid: what `knownTables` is made from. */
export async function readKnownTables(session: Session): Promise<number[]> {
  const { rows } = await session.query<{ oid: number }>(
    `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
        AND n.nspname NOT IN ('information_schema', 'verdigris')`,
  );
  return rows.map((row) => row.oid);
}
