import { formatTableName, type TableName } from '../../plan/table-name.js';
import { tableFilter, type TablePatterns } from '../catalog-pattern.js';
import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';
import { countNotes } from './event-trigger.js';

/*
 * What DDL can change about the tables that a plan moves, as short facts: each has a kind, a name and a definition. Two
 * looks at a database are compared fact by fact, so that people are told what has changed and not only that something has.
 * Statistics, sizes, owners, privileges and comments are not among them: VACUUM, ANALYZE and GRANT change nothing here.
 */

/** What a fact is about. */
export type FactKind =
  /** The table's oid: another one means that it was dropped and made anew. */
  | 'identity'
  | 'table'
  | 'partition'
  | 'replica identity'
  | 'column'
  /** The column's number: another one means that it was dropped and made anew. */
  | 'column identity'
  | 'not null'
  | 'default'
  | 'constraint'
  | 'index'
  | 'trigger'
  /** An enum, domain or composite type that a column uses, also within another one. */
  | 'type';

export type Fact = readonly [kind: FactKind, name: string, definition: string];

/** The facts of each table by its formatted name. */
export type TableFacts = ReadonlyMap<string, readonly Fact[]>;

/** A hash of the facts of each table that the plan moves, by its formatted name: cheap to send and to compare. */
export async function readFactHashes(session: Session, patterns: TablePatterns): Promise<Map<string, string>> {
  const { rows } = await session.query<NameRow & { hash: string }>(
    `${FACTS} SELECT schema, name, root_schema, root_name, md5(string_agg(fact, chr(10) ORDER BY fact COLLATE "C")) AS hash
       FROM facts GROUP BY 1, 2, 3, 4`,
  );
  return new Map(inScope(rows, patterns).map((row) => [formatTableName(row), row.hash]));
}

/** The facts of each table that the plan moves. */
export async function readTableFacts(session: Session, patterns: TablePatterns): Promise<TableFacts> {
  const { rows } = await session.query<NameRow & { facts: Fact[] }>(
    `${FACTS} SELECT schema, name, root_schema, root_name, jsonb_agg(fact::jsonb ORDER BY fact COLLATE "C") AS facts
       FROM facts GROUP BY 1, 2, 3, 4`,
  );
  return new Map(inScope(rows, patterns).map((row) => [formatTableName(row), row.facts]));
}

/**
 * Changes with every row of the catalogs that facts are made of, and with every note of the event triggers: while it stays
 * the same, so do the facts, and they need not be computed. VACUUM and ANALYZE write in place and leave it as it is.
 */
export async function readCatalogSignature(session: Session): Promise<string> {
  const { rows } = await session.query<{ signature: string }>(SIGNATURE);
  return `${rows[0]?.signature ?? ''} ${await countNotes(session)}`;
}

/** Objects of users have oids from 16384 on. Temporary tables come and go, so they are left out. */
const SIGNATURE = `
WITH lasting AS MATERIALIZED (
  SELECT oid, xmin FROM pg_class WHERE oid >= 16384 AND relpersistence = 'p' AND relkind IN ('r', 'p', 'i', 'I', 'c')),
catalog_rows (of, xmin) AS (
  SELECT 'c', xmin FROM lasting
  UNION ALL SELECT 'a', a.xmin FROM pg_attribute a JOIN lasting l ON l.oid = a.attrelid
  UNION ALL SELECT 'x', x.xmin FROM pg_index x JOIN lasting l ON l.oid = x.indexrelid
  UNION ALL SELECT 'd', d.xmin FROM pg_attrdef d JOIN lasting l ON l.oid = d.adrelid
  UNION ALL SELECT 'k', xmin FROM pg_constraint WHERE oid >= 16384
  UNION ALL SELECT 'g', xmin FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT 'i', xmin FROM pg_inherits
  UNION ALL SELECT 'e', xmin FROM pg_enum
  UNION ALL SELECT 't', xmin FROM pg_type WHERE typtype IN ('e', 'd') AND oid >= 16384
  UNION ALL SELECT 'n', xmin FROM pg_namespace WHERE nspname !~ '^pg_')
SELECT string_agg(format('%s %s %s', of, n, hash), ',' ORDER BY of) AS signature
  FROM (SELECT of, count(*) AS n, sum(hashint8extended(xmin::text::bigint, 0)::numeric) AS hash
          FROM catalog_rows GROUP BY of) sums`;

interface NameRow extends TableName {
  readonly root_schema: string;
  readonly root_name: string;
}

/** A partition goes with its topmost parent. */
function inScope<R extends NameRow>(rows: readonly R[], patterns: TablePatterns): R[] {
  const moved = tableFilter(patterns);
  return rows.filter((row) => moved({ schema: row.root_schema, name: row.root_name }));
}

/**
 * One row a fact, as a JSON array in text. Indexes that are being built, or left INVALID, do not count: REINDEX
 * CONCURRENTLY comes and goes with some. Neither do our own triggers and constraints, nor the not-null constraints that
 * PostgreSQL 18 names (the column says it).
 */
const FACTS = `
WITH RECURSIVE tables AS MATERIALIZED (
  SELECT c.oid, n.nspname AS schema, c.relname AS name, rn.nspname AS root_schema, r.relname AS root_name,
         c.relkind, c.relispartition, c.relpartbound, c.relreplident
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND ${USER_SCHEMA}
     AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
columns AS MATERIALIZED (
  SELECT a.* FROM pg_attribute a JOIN tables t ON t.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped),
used_types (relid, typid) AS (
  SELECT attrelid, atttypid FROM columns WHERE atttypid >= 16384
  UNION
  -- Whatever it is made of, however deep: elements, bases, fields, subtypes.
  SELECT u.relid, part.typid
    FROM used_types u JOIN pg_type t ON t.oid = u.typid
    CROSS JOIN LATERAL (
      SELECT t.typelem WHERE t.typcategory = 'A'
      UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
      UNION ALL SELECT a.atttypid FROM pg_attribute a
                 WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL SELECT CASE t.typtype WHEN 'r' THEN r.rngsubtype ELSE r.rngtypid END FROM pg_range r
                 WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.rngtypid, r.rngmultitypid)) part (typid)
   WHERE part.typid >= 16384),
of_table (relid, kind, name, definition) AS (
  SELECT oid, 'identity', '', oid::text FROM tables
  UNION ALL SELECT oid, 'table', '', CASE relkind WHEN 'p' THEN 'partitioned by ' || pg_get_partkeydef(oid) ELSE 'ordinary' END
    FROM tables
  UNION ALL SELECT t.oid, 'partition', i.inhparent::regclass::text,
                   coalesce(pg_get_expr(t.relpartbound, t.oid), '') || CASE WHEN i.inhdetachpending THEN ' detaching' ELSE '' END
    FROM tables t JOIN pg_inherits i ON i.inhrelid = t.oid
  UNION ALL SELECT oid, 'replica identity', '', CASE relreplident WHEN 'd' THEN 'default' WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing'
                   ELSE (SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = tables.oid AND i.indisreplident) END
    FROM tables
  UNION ALL SELECT a.attrelid, 'column', a.attname,
                   format_type(a.atttypid, a.atttypmod)
                   || CASE WHEN a.attcollation <> ty.typcollation THEN ' COLLATE ' || a.attcollation::regcollation::text ELSE '' END
                   || CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' ELSE '' END
                   || CASE WHEN a.attgenerated <> '' THEN ' GENERATED ' || (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                                                         WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) ELSE '' END
    FROM columns a JOIN pg_type ty ON ty.oid = a.atttypid
  UNION ALL SELECT attrelid, 'column identity', attname, attnum::text FROM columns
  UNION ALL SELECT attrelid, 'not null', attname, '' FROM columns WHERE attnotnull
  UNION ALL SELECT a.attrelid, 'default', a.attname, pg_get_expr(d.adbin, d.adrelid)
    FROM columns a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attgenerated = ''
  UNION ALL SELECT k.conrelid, 'constraint', k.conname, pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN tables t ON t.oid = k.conrelid
   WHERE k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conname !~ '^_?verdigris_'
  UNION ALL SELECT x.indrelid, 'index', i.relname, pg_get_indexdef(x.indexrelid)
    FROM pg_index x JOIN tables t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
   WHERE x.indisvalid AND x.indislive AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
  UNION ALL SELECT g.tgrelid, 'trigger', g.tgname, pg_get_triggerdef(g.oid) || ' ' || g.tgenabled::text
    FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid
   WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgname !~ '^_?verdigris_'
  UNION ALL SELECT u.relid, 'type', format_type(t.oid, NULL),
                   CASE t.typtype WHEN 'e' THEN (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                                   FROM pg_enum e WHERE e.enumtypid = t.oid)
                        WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                                      || coalesce((SELECT ' ' || string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
                                                     FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')
                        ELSE (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                                FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END
    FROM used_types u JOIN pg_type t ON t.oid = u.typid
   WHERE t.typtype IN ('e', 'd', 'c')),
facts AS (
  SELECT t.schema, t.name, t.root_schema, t.root_name,
         json_build_array(f.kind, f.name, coalesce(f.definition, ''))::text AS fact
    FROM of_table f JOIN tables t ON t.oid = f.relid)`;
