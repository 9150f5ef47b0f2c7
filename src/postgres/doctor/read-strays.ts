import { formatTableName, type TableName } from '../../plan/table-name.js';
import { leafIndexName } from '../migrate/index-definition.js';
import { columnsOnlyFilled, tablesWithTrigger } from '../migrate/install-trigger.js';
import { readOtherMigrations } from '../other-migrations.js';
import { ACTOR_LOCK, FENCE_LOCK, hasState, readOwner } from '../state.js';
import { isAdvisoryLock } from '../locks.js';
import type { Session } from '../session.js';

export interface InvalidIndex extends TableName {
  readonly table: string;
  /** Whether this run has written down that it makes it. */
  readonly ours: boolean;
  /** A build of it runs now. */
  readonly building: boolean;
}

export interface SessionFound {
  readonly pid: number;
  /** What it says of itself, after `verdigris `. */
  readonly purpose: string;
  readonly state: string | null;
  readonly seconds: number;
}

/** A session that holds a lock of ours and does not say that it is a worker's: anybody who can log in may take them. */
export interface LockHolder {
  /** `fence`: held alone, so that whoever writes waits for it; `actor`: of whoever acts for a run. */
  readonly lock: 'fence' | 'actor';
  readonly pid: number;
  readonly who: string;
}

/** What a run leaves on the application's own tables, and who works here now. */
export interface StrayObjects {
  /** Tables with an up/down trigger; of partitioned ones the topmost. */
  readonly upDown: readonly string[];
  /** Columns that an INSERT must give once those triggers are gone: NOT NULL and without a default. */
  readonly onlyFilled: readonly string[];
  readonly eventTriggers: readonly string[];
  readonly invalidIndexes: readonly InvalidIndex[];
  /** Check constraints that prove NOT NULL while it is being set. */
  readonly proofs: readonly { readonly schema: string; readonly table: string; readonly name: string }[];
  /** Sessions of workers. Those of the application's routers and of the doctor are not among them. */
  readonly sessions: readonly SessionFound[];
  readonly lockHolders: readonly LockHolder[];
  /** Objects outside schema verdigris that use its functions or tables: they would go with it. */
  readonly dependents: readonly string[];
  /** Migrations besides the owner's whose routers read from schema verdigris. */
  readonly otherMigrations: readonly string[];
  /** Objects that the run has written down as made by its copy of the schema. */
  readonly copied: number;
}

export async function readStrayObjects(session: Session): Promise<StrayObjects> {
  const eventTriggers = await session.query<{ name: string }>(
    `SELECT e.evtname AS name FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
       JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'verdigris' OR e.evtname LIKE 'verdigris\\_%' ORDER BY 1`,
  );
  const proofs = await session.query<{ schema: string; table: string; name: string }>(
    `SELECT n.nspname AS schema, c.relname AS table, k.conname AS name
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE k.conname ~ '^verdigris_not_null_[0-9a-f]{16}$' AND k.conparentid = 0 AND k.coninhcount = 0 ORDER BY 1, 2, 3`,
  );
  const sessions = await session.query<SessionFound>(
    `SELECT pid, substr(application_name, 11) AS purpose, state,
            coalesce(round(extract(epoch FROM clock_timestamp() - backend_start)), 0)::float8 AS seconds
       FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'verdigris %'
        AND application_name NOT LIKE 'verdigris doctor%' AND application_name <> 'verdigris router'
        AND pid <> pg_backend_pid() ORDER BY pid`,
  );
  return {
    upDown: (await tablesWithTrigger(session)).map(formatTableName),
    onlyFilled: await columnsOnlyFilled(session),
    eventTriggers: eventTriggers.rows.map(({ name }) => name),
    invalidIndexes: await readInvalidIndexes(session),
    proofs: proofs.rows,
    sessions: sessions.rows,
    lockHolders: await readLockHolders(session),
    dependents: await readDependents(session),
    otherMigrations: await readOtherMigrations(session, (await readOwner(session))?.migration ?? ''),
    copied: await countCopied(session),
  };
}

async function readLockHolders(session: Session): Promise<LockHolder[]> {
  const { rows } = await session.query<LockHolder>(
    `SELECT CASE WHEN ${isAdvisoryLock(FENCE_LOCK)} THEN 'fence' ELSE 'actor' END AS lock, a.pid,
            format('%s, user %s', coalesce(nullif(a.application_name, ''), 'no application name'), a.usename) AS who
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (${isAdvisoryLock(ACTOR_LOCK)} OR ${isAdvisoryLock(FENCE_LOCK)} AND l.mode = 'ExclusiveLock')
        AND a.application_name NOT LIKE 'verdigris %'
      ORDER BY 1, 2`,
  );
  return rows;
}

async function readInvalidIndexes(session: Session): Promise<InvalidIndex[]> {
  const { rows } = await session.query<TableName & { on: TableName; above: readonly TableName[]; building: boolean }>(
    `SELECT n.nspname AS schema, i.relname AS name, json_build_object('schema', tn.nspname, 'name', t.relname) AS on,
            (SELECT coalesce(json_agg(json_build_object('schema', an.nspname, 'name', a.relname)), '[]')
               FROM pg_partition_ancestors(t.oid) p JOIN pg_class a ON a.oid = p.relid
               JOIN pg_namespace an ON an.oid = a.relnamespace) AS above,
            EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.oid) AS building
       FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
       JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
      WHERE NOT x.indisvalid AND i.relkind = 'i' AND n.nspname !~ '^pg_' ORDER BY 1, 2`,
  );
  const ours = (await hasState(session)) ? await builtByRun(session) : [];
  return rows.map(({ schema, name, on, above, building }) => {
    const table = formatTableName(on);
    const isOurs = ours.includes(`${table} ${name}`) || above.some((parent) => isOfLeaf(name, on, parent, ours));
    return { schema, name, table, building, ours: isOurs };
  });
}

/** Whether an index is what one of a partitioned table, by its key in `built`, is made from: that key names the parent. */
function isOfLeaf(name: string, leaf: TableName, parent: TableName, built: readonly string[]): boolean {
  const before = `${formatTableName(parent)} `;
  return built.some((key) => key.startsWith(before) && leafIndexName(key.slice(before.length), leaf) === name);
}

/** Keys of the builds that the owner's run has begun: see indexKey() in migrate/create-index.ts. */
async function builtByRun(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ object: string }>(
    `SELECT p.object FROM verdigris.progress p JOIN verdigris.owner o USING (run_id)
      WHERE p.step = 'createIndex' AND p.state ->> 'ours' = 'true'`,
  );
  return rows.map(({ object }) => object);
}

async function countCopied(session: Session): Promise<number> {
  if (!(await hasState(session))) return 0;
  const { rows } = await session.query<{ n: number }>(
    `SELECT coalesce(sum(jsonb_array_length(p.state -> 'made')), 0)::int AS n
       FROM verdigris.progress p JOIN verdigris.owner o USING (run_id)
      WHERE p.step = 'schema' AND jsonb_typeof(p.state -> 'made') = 'array'`,
  );
  return rows[0]?.n ?? 0;
}

/** Triggers of ours and publications of markers are left out: they go in order, before the schema. */
async function readDependents(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ what: string }>(
    `WITH members AS (
       SELECT 'pg_proc'::regclass AS classid, oid FROM pg_proc WHERE pronamespace = to_regnamespace('verdigris')
       UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = to_regnamespace('verdigris')
       UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = to_regnamespace('verdigris'))
     SELECT DISTINCT o.type || ' ' || o.identity AS what
       FROM members m JOIN pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.oid AND d.deptype = 'n'
       CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) o
      WHERE o.type NOT IN ('trigger', 'event trigger', 'publication relation')
        AND o.schema IS DISTINCT FROM 'verdigris' AND o.identity NOT LIKE '%verdigris.%'
      ORDER BY 1`,
  );
  return rows.map(({ what }) => what);
}
