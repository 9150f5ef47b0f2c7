import { formatTableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { expressionPath } from '../migrate/changed-table.js';
import { planWork, type TableWork } from '../migrate/plan-work.js';
import { partitionTree } from '../partition-tree.js';
import { inTransaction, type Session } from '../session.js';
import type { Found, SideCheck } from './check.js';

/*
 * PostgreSQL asks a domain for each row that is there when a column of it is added, which writes the table anew; and it asks
 * the domain of a column that an INSERT leaves out, before the up/down trigger could fill the column. That of a new column
 * is tried with the plan.
 */

export const domainColumns: SideCheck = {
  name: 'domain-columns',
  sides: ['blue'],
  onlyWarns: true,
  run: async ({ session, plan }) => {
    const found: Found[] = [];
    const { tables } = await planWork(plan);
    const hasRows = plan.bootstrap.method !== 'copy';
    for (const work of tables) {
      const rewriting = hasRows ? await rewritingColumns(session, work) : [];
      found.push(...rewriting.map((column) => rewrites(work, column)), ...(await unfilled(session, work)));
    }
    return found;
  },
};

interface Rewriting {
  readonly column: string;
  readonly domain: string;
  readonly size: string;
}

function rewrites({ table }: TableWork, { column, domain, size }: Rewriting): Found {
  return {
    severity: 'warning',
    object: formatTableName(table),
    message: `"${column}" is of the domain ${domain}, which has constraints: PostgreSQL writes the rows of ${formatTableName(table)} (${size}) anew when the column is added, and green does not follow blue for as long as that takes`,
    remedy: `Nothing where that is short; else take the base type of ${domain} in the plan, and its checks as addConstraint; or bootstrap.method copy, which adds the column before the rows`,
  };
}

/** New columns with which a table that has rows is written anew. A type that is not known is for others to tell. */
function rewritingColumns(session: Session, { table, columns }: TableWork): Promise<readonly Rewriting[]> {
  if (columns.length === 0) return Promise.resolve([]);
  return inTransaction(session, async () => {
    const path = await expressionPath(session, table.schema);
    await session.query(`SELECT set_config('search_path', $1, true)`, [path]);
    const { rows } = await session.query<Rewriting>(REWRITING, [
      columns.map(({ name }) => name),
      columns.map(({ type }) => type),
      qualified(table),
    ]);
    return rows;
  });
}

/** A domain and those that it is made of. */
const chain = (typid: string): string => `
  WITH RECURSIVE made_of (oid) AS (
    SELECT ${typid}::oid
     UNION ALL SELECT t.typbasetype FROM made_of m JOIN pg_catalog.pg_type t ON t.oid = m.oid AND t.typtype = 'd')`;

const REWRITING = `
SELECT given.name AS column, given.type AS domain, pg_catalog.pg_size_pretty(size.bytes) AS size
  FROM unnest($1::text[], $2::text[]) AS given (name, type)
  JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(given.type) AND t.typtype = 'd'
 CROSS JOIN LATERAL (
   SELECT sum(pg_catalog.pg_relation_size(tree.relid)) AS bytes
     FROM ${partitionTree('to_regclass($3)')} tree WHERE tree.isleaf) size
 WHERE size.bytes > 0 AND EXISTS (
   ${chain('t.oid')}
   SELECT FROM made_of JOIN pg_catalog.pg_type d ON d.oid = made_of.oid
    WHERE d.typnotnull OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = d.oid AND k.contype = 'c'))`;

/** Old columns that "down" is to fill and that an INSERT can't leave out. */
async function unfilled(session: Session, { table, derived }: TableWork): Promise<Found[]> {
  const targets = derived.flatMap(({ down }) => (down === undefined ? [] : [down.column]));
  if (targets.length === 0) return [];
  const { rows } = await session.query<{ column: string; domain: string }>(UNFILLED, [qualified(table), targets]);
  return rows.map(({ column, domain }) => ({
    severity: 'warning',
    object: `${formatTableName(table)}.${column}`,
    message: `"${column}" is of the domain ${domain}, which refuses NULL: an INSERT that leaves the column out fails before "down" could fill it, on green, too`,
    remedy: 'Code that writes the new column must go on to write this one, too, until the run has ended',
  }));
}

const UNFILLED = `
SELECT a.attname AS column, pg_catalog.format_type(a.atttypid, NULL) AS domain
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'd' AND t.typdefault IS NULL
 WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = ANY ($2) AND NOT a.atthasdef
   AND EXISTS (${chain('t.oid')}
               SELECT FROM made_of JOIN pg_catalog.pg_type d ON d.oid = made_of.oid WHERE d.typnotnull)`;
