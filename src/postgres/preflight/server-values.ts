import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import type { Session } from '../session.js';
import { NEW_GREEN, type SideCheck } from './check.js';
import { columnsOfTypes } from './columns-of-types.js';
import { listed } from './finding.js';

/** Types whose values count or name something within one server: transactions, positions in its WAL, objects. */
const TYPES = ['xid', 'xid8', 'pg_snapshot', 'txid_snapshot', 'pg_lsn', 'oid'];

/** Functions that give such values, also as bigint or text. */
const MAKERS =
  '\\m(pg_current_xact_id(_if_assigned)?|txid_current(_if_assigned)?|pg_current_wal(_insert|_flush)?_lsn)\\M';

/**
 * Columns whose values mean something on the server that made them only. They are copied, and compared as equal; green
 * counts its transactions and its WAL from elsewhere, and its objects have other numbers: an outbox that is read in the
 * order of such numbers skips what is written after the writes have moved.
 */
export const serverValues: SideCheck = {
  name: 'server-values',
  sides: ['blue'],
  // A standby goes on with blue's numbers.
  methods: NEW_GREEN,
  run: async ({ session, tables }) => {
    const moved = await tables();
    const columns = new Set([
      ...(await columnsOfTypes(session, moved, TYPES)),
      ...(await madeByDefault(session, moved)),
    ]);
    if (columns.size === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed([...columns]),
        message:
          'these columns hold numbers of transactions, positions in the WAL or oids, which mean something on one server only: rows that are written on green have others, which may lie below those of blue',
        remedy:
          "Where something reads in their order (an outbox) or looks objects up by them, give it a sequence or names before the promotion; or raise green's counters above blue's while it is empty and stopped (pg_resetwal -x, -e, -l)",
      },
    ];
  },
};

async function madeByDefault(session: Session, tables: readonly TableInfo[]): Promise<string[]> {
  const { rows } = await session.query<{ i: number; name: string }>(
    `SELECT t.i::int - 1 AS i, a.attname AS name
       FROM unnest($1::oid[]) WITH ORDINALITY AS t (oid, i)
       JOIN pg_attrdef d ON d.adrelid = t.oid
       JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
      WHERE NOT a.attisdropped AND pg_get_expr(d.adbin, d.adrelid) ~* $2
      ORDER BY 1, 2`,
    [tables.map(({ oid }) => oid), MAKERS],
  );
  return rows.flatMap(({ i, name }) => {
    const table = tables[i];
    return table === undefined ? [] : [`${formatTableName(table.name)}.${name}`];
  });
}
