import { formatTableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import type { Build } from '../migrate/index-build.js';
import { TRIED_AGAIN } from '../migrate/index-failed.js';
import { concurrently } from './schema-statements.js';
import type { Session } from '../session.js';
import { schemaCopyFailed } from './schema-copy-failed.js';
import type { KeyStatement } from './schema-statements.js';

/*
 * A primary key or unique constraint can be made in two halves: its index, which stands no other build of the table in
 * the way, and the constraint USING INDEX, which takes a moment. ADD PRIMARY KEY alone would lock the table for as long
 * as its index takes, and the table's other indexes would wait for it.
 */

/** A name as pg_dump writes it. */
const NAME = '(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")';

/** ALTER TABLE ONLY shop.orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id): nothing more than names of columns. */
const PLAIN_KEY = new RegExp(
  `^ALTER TABLE ONLY (?<table>${NAME}\\.${NAME})\\s+ADD CONSTRAINT (?<name>${NAME}) (?<kind>PRIMARY KEY|UNIQUE) (?<columns>\\(${NAME}(?:, ${NAME})*\\))$`,
);

interface PlainKey {
  readonly table: string;
  readonly name: string;
  readonly kind: string;
  readonly columns: string;
}

function plainKey({ create }: KeyStatement): PlainKey | undefined {
  const { table, name, kind, columns } = PLAIN_KEY.exec(create)?.groups ?? {};
  if (table === undefined || name === undefined || kind === undefined || columns === undefined) return undefined;
  return { table, name, kind, columns };
}

/** The build of a key's index; undefined where the key must be made at once, as it is written. */
export function keyIndexBuild(key: KeyStatement): Build | undefined {
  const plain = plainKey(key);
  if (plain === undefined) return undefined;
  const sql = `CREATE UNIQUE INDEX ${plain.name} ON ${plain.table} USING btree ${plain.columns}`;
  return {
    table: key.table,
    name: key.name,
    object: formatTableName({ schema: key.table.schema, name: key.name }),
    searchPath: '',
    sql: (how) => (how === 'plain' ? sql : concurrently(sql)),
    accept: () => undefined,
    failed: (error, why) => schemaCopyFailed(key.create, error, why === 'in the way' ? TRIED_AGAIN : undefined),
  };
}

/** The statement that makes a key of the index that is there for it; undefined when there is none. */
export async function keyUsingIndex(session: Session, key: KeyStatement): Promise<string | undefined> {
  const plain = plainKey(key);
  if (plain === undefined) return undefined;
  const { rowCount } = await session.query(
    `SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
      WHERE i.indrelid = to_regclass($1) AND c.relname = $2 AND i.indisvalid AND i.indisunique
        AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid AND k.conrelid = i.indrelid)`,
    [qualified(key.table), key.name],
  );
  if (rowCount !== 1) return undefined;
  return `ALTER TABLE ONLY ${plain.table} ADD CONSTRAINT ${plain.name} ${plain.kind} USING INDEX ${plain.name}`;
}
