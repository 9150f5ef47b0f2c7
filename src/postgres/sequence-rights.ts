import { VerdigrisError } from '../errors.js';
import type { TableName } from '../plan/table-name.js';
import type { Side } from '../side.js';
import { ident, qualified } from './identifier.js';
import { listed } from './preflight/finding.js';
import type { Session } from './session.js';

/*
 * Writes go back with their sequences, and those are no table's rows: whoever owns the tables need not be allowed to set a
 * sequence of somebody else. Reading one asks for SELECT, `setval` for UPDATE.
 */

/** Sequences that the user of a connection may not read and set. */
export interface WithheldSequences {
  readonly user: string;
  /** Quoted. */
  readonly names: readonly string[];
  /** What gives it the rights: SQL. */
  readonly grants: string;
}

/** Undefined where it may move all of these; those that are not there are nobody's business. */
export async function readWithheldSequences(
  session: Session,
  sequences: readonly TableName[],
): Promise<WithheldSequences | undefined> {
  const { rows } = await session.query<TableName & { user: string; reached: boolean }>(WITHHELD, [
    JSON.stringify(sequences.map(({ schema, name }) => ({ schema, name }))),
  ]);
  const [first] = rows;
  if (first === undefined) return undefined;
  const to = `TO ${ident(first.user)}`;
  const names = rows.map(qualified);
  const hidden = schemasOf(rows.filter(({ reached }) => !reached));
  const granted =
    rows.length > NAMED ? `ALL SEQUENCES IN SCHEMA ${schemasOf(rows).join(', ')}` : `SEQUENCE ${names.join(', ')}`;
  const grants = [
    ...(hidden.length === 0 ? [] : [`GRANT USAGE ON SCHEMA ${hidden.join(', ')} ${to}`]),
    `GRANT SELECT, UPDATE ON ${granted} ${to}`,
  ];
  return { user: first.user, names, grants: grants.join('; ') };
}

/** With more of them a statement that names each is longer than anybody reads. */
const NAMED = 20;

function schemasOf(sequences: readonly TableName[]): string[] {
  return [...new Set(sequences.map(({ schema }) => ident(schema)))];
}

const WITHHELD = `
  SELECT n.nspname AS schema, c.relname AS name, current_user AS user, has_schema_privilege(n.oid, 'USAGE') AS reached
    FROM jsonb_to_recordset($1::jsonb) AS asked (schema text, name text)
    JOIN pg_namespace n ON n.nspname = asked.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = asked.name AND c.relkind = 'S'
   WHERE NOT (has_sequence_privilege(c.oid, 'SELECT') AND has_sequence_privilege(c.oid, 'UPDATE')
              AND has_schema_privilege(n.oid, 'USAGE'))
   ORDER BY 1, 2`;

/**
 * Asked on the side that sequences are to be carried to, before anything moves.
 *
 * @throws VerdigrisError PromotionBlocked
 */
export async function refuseWithheldSequences(
  session: Session,
  side: Side,
  sequences: readonly TableName[],
): Promise<void> {
  const withheld = await readWithheldSequences(session, sequences);
  if (withheld === undefined) return;
  const { user, names, grants } = withheld;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: `the promotion could not go through: the user "${user}" of ${side} may not set the sequences ${listed(names)}, which go where the writes go`,
    nextStep: `on ${side}: ${grants}; then approve the promotion again (a rollback is tried again by itself); writes go on as before`,
  });
}
