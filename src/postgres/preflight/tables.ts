import { formatTableName } from '../../plan/table-name.js';
import { parseTablePattern } from '../catalog-pattern.js';
import { readUnmovedTables } from '../catalog-unmoved.js';
import { qualified } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import type { Session } from '../session.js';
import { sameTable } from '../catalog.js';
import { NEW_GREEN, type Found, type SideCheck } from './check.js';
import { listed } from './finding.js';

/** Checks of the tables that the plan moves. */

export const patterns: SideCheck = {
  name: 'table-patterns',
  sides: ['blue'],
  run: async ({ plan, tables }) => {
    const moved = await tables();
    const found = plan.tables.include
      .filter((text) => !moved.some(({ root }) => parseTablePattern(text).matches(root)))
      .map((text): Found => {
        const partition = moved.find(({ name }) => parseTablePattern(text).matches(name));
        return {
          // A pattern for tables that are still to come is no mistake; a name is.
          severity: text.includes('*') ? 'warning' : 'error',
          object: text,
          message:
            partition === undefined
              ? `"tables.include" has ${text}, and blue has no such table that is moved`
              : `${text} is a partition: it moves with ${formatTableName(partition.root)}`,
          remedy: 'Mend the name: names are exact, with their case; a partition goes with its topmost parent',
        };
      });
    if (moved.length > 0) return found;
    return [
      ...found.filter(({ severity }) => severity === 'error'),
      {
        severity: 'error',
        object: 'tables',
        message: 'the plan moves no table: "tables" of the plan leaves none over, or blue has none',
        remedy: 'See that blue is the right database, and mend "tables.include" and "tables.exclude"',
      },
    ];
  },
};

/** See src/postgres/partition-files.ts: how it is noticed when somebody does it all the same. */
export const partitions: SideCheck = {
  name: 'partitions',
  sides: ['blue'],
  run: async ({ tables }) => {
    const roots = (await tables()).filter(({ kind, name, root }) => kind === 'partitioned' && sameTable(name, root));
    if (roots.length === 0) return [];
    return [
      {
        severity: 'info',
        object: listed(roots.map(({ name }) => formatTableName(name))),
        message:
          'TRUNCATE of one partition is not replicated, in neither direction: the other side would keep its rows',
        remedy: 'Let jobs that empty partitions DELETE, or wait, until the run has ended',
      },
    ];
  },
};

/** Rows that stay behind although the plan's patterns name their tables. */
export const unmovedRows: SideCheck = {
  name: 'unmoved-rows',
  sides: ['blue'],
  run: async ({ session, plan }) =>
    (await readUnmovedTables(session, plan.tables)).flatMap(({ name, kind, partitionOf, extension }): Found[] => {
      const object = formatTableName(name);
      if (partitionOf !== null) {
        return [
          {
            severity: 'error',
            object,
            message: `${object} is ${kind === 'foreign' ? 'a foreign' : 'an unlogged'} partition of ${formatTableName(partitionOf)}: its rows are not replicated, and the two sides would differ`,
            remedy: `${kind === 'foreign' ? 'Detach it' : `ALTER TABLE ${qualified(name)} SET LOGGED`}, or exclude ${formatTableName(partitionOf)}`,
          },
        ];
      }
      switch (kind) {
        case 'unlogged':
          return [
            {
              severity: 'warning',
              object,
              message: `${object} is unlogged: green gets it empty`,
              remedy: `ALTER TABLE ${qualified(name)} SET LOGGED on blue, if its rows are to be moved`,
            },
          ];
        case 'foreign':
          return [
            {
              severity: 'warning',
              object,
              message: `${object} is a foreign table: green gets its definition, and reads the same source`,
              remedy: "See that green's server reaches that source, and that its user mapping is right",
            },
          ];
        case 'materializedView':
          return [
            {
              severity: 'info',
              object,
              message: `${object} is a materialized view: where it is populated it is refreshed on green once, after the rows have been copied`,
              remedy: 'Let whatever refreshes it on blue do so on green, too, before reads move',
            },
          ];
        case 'extensionTable':
          return [
            {
              severity: 'warning',
              object,
              message: `${object} belongs to the extension ${extension ?? ''}: rows that you have put there are not moved`,
              remedy:
                'If they are needed on green: CREATE EXTENSION there and put them in before the run begins, since indexes and generated columns that need them are made behind the rows. An extension with rows of its own is no obstacle to an empty green',
            },
          ];
      }
    }),
};

/** What a failed CREATE INDEX or REINDEX CONCURRENTLY has left, or one that is still at work. */
export const invalidIndexes: SideCheck = {
  name: 'invalid-indexes',
  sides: ['blue'],
  methods: NEW_GREEN,
  run: async ({ session, tables }) => {
    const { rows } = await session.query<{ object: string }>(
      `SELECT i.indexrelid::regclass::text AS object FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
        WHERE NOT i.indisvalid AND c.relkind <> 'p' AND i.indrelid = ANY ($1::oid[]) ORDER BY 1`,
      [(await tables()).map(({ oid }) => oid)],
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed(rows.map(({ object }) => object)),
        message:
          'these indexes are INVALID: what CREATE INDEX or REINDEX CONCURRENTLY leaves behind when it fails, or while it runs. No query uses them, and green does not get them',
        remedy:
          'REINDEX INDEX CONCURRENTLY on blue before the run, if green is to have them; DROP INDEX CONCURRENTLY, if not. Let one that is being built end first',
      },
    ];
  },
};

type Edge = 'foreign key' | 'view' | 'policy' | 'rule' | 'default' | 'inheritance' | 'foreign key of another table';

interface Torn {
  readonly kind: Edge;
  readonly object: string;
  readonly needs: string;
}

/** What would be torn apart by leaving tables on blue. */
export const tornApart: SideCheck = {
  name: 'torn-apart',
  sides: ['blue'],
  run: async ({ session, plan, tables }) => {
    const moved = (await tables()).map(({ oid }) => oid);
    const { rows } = await session.query<Torn>(TORN_APART, [moved]);
    const isStandby = plan.bootstrap.method === 'standby';
    return [...rows.map((torn) => judgeTorn(torn, isStandby)), ...(await withoutChildren(session, moved))];
  },
};

function judgeTorn({ kind, object, needs }: Torn, isStandby: boolean): Found {
  const include = `Include ${needs} in "tables"`;
  const drop =
    kind === 'default' ? 'ALTER SEQUENCE ... OWNED BY NONE on blue: it goes along then' : `drop the ${kind} on blue`;
  if (kind === 'foreign key of another table') {
    return {
      severity: 'warning',
      object,
      message: `${object} stays on blue and its foreign key refers to ${needs}, which moves: after the promotion the key is checked against the standby's rows`,
      remedy: `Include ${object}, or drop its foreign key`,
    };
  }
  if (isStandby && (kind === 'policy' || kind === 'rule')) {
    return {
      severity: 'warning',
      object,
      message: `the ${kind} ${object} needs ${needs}, which the plan does not move: on green that table stays as it is when green is promoted, with what is written there since`,
      remedy: `${include}, or see that the ${kind} is right with it`,
    };
  }
  return {
    severity: 'error',
    object,
    message: `the ${kind} ${object} needs ${needs}, which the plan does not move: it can't be made on green`,
    remedy: `${include}, or ${drop}`,
  };
}

/** Reads of a parent give the rows of its children, too. Each is published, copied and compared by itself, or not at all. */
async function withoutChildren(session: Session, moved: readonly number[]): Promise<Found[]> {
  const { rows } = await session.query<{ parent: string; child: string; readable: boolean }>(CHILDREN_LEFT, [moved]);
  const [lacking, empty] = [new Map<string, string[]>(), new Map<string, string[]>()];
  for (const { parent, child, readable } of rows) {
    const group = readable && (await isEmpty(session, child)) ? empty : lacking;
    group.set(parent, [...(group.get(parent) ?? []), child]);
  }
  const found = (severity: Found['severity'], now: string) => (entry: readonly [string, readonly string[]]) => {
    const [parent, children] = entry;
    return {
      severity,
      object: parent,
      message: `the plan moves ${parent} without ${listed(children)}, which inherit from it${now}: reads of ${parent} on green would lack their rows`,
      remedy: `Include these tables in "tables" (after ALTER TABLE ... SET LOGGED on blue, if unlogged), or end the inheritance there (ALTER TABLE ... NO INHERIT ${parent})`,
    };
  };
  return [...[...lacking].map(found('error', '')), ...[...empty].map(found('warning', ' and are empty now'))];
}

async function isEmpty(session: Session, table: string): Promise<boolean> {
  const { rows } = await session.query<{ empty: boolean }>(`SELECT NOT EXISTS (SELECT FROM ONLY ${table}) AS empty`);
  return rows[0]?.empty === true;
}

/** Columns that the plan gives to a parent reach its children too, whose rows neither trigger nor backfill would fill. */
export const inheritedColumns: SideCheck = {
  name: 'inherited-columns',
  sides: ['blue'],
  run: async ({ session, plan }) => {
    const { tables, steps } = await planWork(plan);
    const changed = [...tables, ...steps.filter((step) => step.kind === 'notNull')].map(({ table }) =>
      qualified(table),
    );
    const { rows } = await session.query<{ object: string; children: string[] }>(
      `SELECT p.oid::regclass::text AS object, array_agg(i.inhrelid::regclass::text ORDER BY 1) AS children
         FROM (SELECT DISTINCT to_regclass(name) AS oid FROM unnest($1::text[]) name) p
         JOIN pg_inherits i ON i.inhparent = p.oid
         JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition
        GROUP BY p.oid ORDER BY 1`,
      [changed],
    );
    return rows.map(({ object, children }): Found => ({
      severity: 'error',
      object,
      message: `the plan changes columns of ${object}, which ${listed(children)} inherit: the rows of those would not be filled`,
      remedy: `Leave the columns of ${object} out of the plan; or make it a partitioned table on blue, or end the inheritance (ALTER TABLE ... NO INHERIT ${object}), before the run`,
    }));
  },
};

const TORN_APART = `
WITH moved AS (SELECT unnest($1::oid[]) AS oid),
     kept AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'verdigris')
                 AND c.oid NOT IN (SELECT oid FROM moved)
                 AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'))
SELECT 'foreign key' AS kind, k.conrelid::regclass || '.' || quote_ident(k.conname) AS object, k.confrelid::regclass::text AS needs
  FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
   AND k.conrelid IN (SELECT oid FROM moved) AND k.confrelid IN (SELECT oid FROM kept)
UNION ALL
SELECT 'foreign key of another table', k.conrelid::regclass::text, k.confrelid::regclass::text
  FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
   AND k.conrelid IN (SELECT oid FROM kept) AND k.confrelid IN (SELECT oid FROM moved)
UNION ALL
SELECT DISTINCT 'view', v.oid::regclass::text, d.refobjid::regclass::text
  FROM pg_rewrite r
  JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_namespace n ON n.oid = v.relnamespace
 WHERE d.refobjid IN (SELECT oid FROM kept) AND n.nspname <> 'verdigris'
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = v.oid AND e.deptype = 'e')
UNION ALL
SELECT DISTINCT 'policy', quote_ident(p.polname) || ' on ' || p.polrelid::regclass, d.refobjid::regclass::text
  FROM pg_policy p
  JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
 WHERE p.polrelid IN (SELECT oid FROM moved) AND d.refobjid IN (SELECT oid FROM kept)
UNION ALL
SELECT DISTINCT 'rule', quote_ident(r.rulename) || ' on ' || r.ev_class::regclass, d.refobjid::regclass::text
  FROM pg_rewrite r
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
 WHERE r.ev_class IN (SELECT oid FROM moved) AND d.refobjid IN (SELECT oid FROM kept)
UNION ALL
SELECT DISTINCT 'default', a.adrelid::regclass || '.' || quote_ident(c.attname) || ' (' || d.refobjid::regclass || ')',
       o.refobjid::regclass::text
  FROM pg_attrdef a
  JOIN pg_attribute c ON c.attrelid = a.adrelid AND c.attnum = a.adnum
  JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_depend o ON o.classid = 'pg_class'::regclass AND o.objid = d.refobjid AND o.refclassid = 'pg_class'::regclass
                  AND o.refobjsubid > 0 AND o.deptype IN ('a', 'i')
 WHERE a.adrelid IN (SELECT oid FROM moved) AND o.refobjid IN (SELECT oid FROM kept)
UNION ALL
SELECT 'inheritance', i.inhrelid::regclass::text, i.inhparent::regclass::text
  FROM pg_inherits i WHERE i.inhrelid IN (SELECT oid FROM moved) AND i.inhparent IN (SELECT oid FROM kept)
ORDER BY 1, 2`;

/** At whatever depth; partitions go with their topmost parent. */
const CHILDREN_LEFT = `
WITH RECURSIVE heirs (parent, child) AS (
  SELECT inhparent, inhrelid FROM pg_inherits WHERE inhparent = ANY ($1::oid[])
  UNION SELECT h.parent, i.inhrelid FROM heirs h JOIN pg_inherits i ON i.inhparent = h.child)
SELECT h.parent::regclass::text AS parent, h.child::regclass::text AS child,
       has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
       AND NOT row_security_active(c.oid) AS readable
  FROM heirs h JOIN pg_class c ON c.oid = h.child
 WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence IN ('p', 'u') AND c.oid <> ALL ($1::oid[])
 ORDER BY 1, 2`;
