import type { TableName } from '../../plan/table-name.js';
import { briefLock } from '../brief-lock.js';
import { inTransaction, type Session } from '../session.js';
import { NO_RIGHT, sqlState } from '../sqlstate.js';
import { ONLY_OWNERS_WRITE } from '../state-rights.js';

/*
 * Event triggers that write down DDL as it happens: who, by which application, when; also what table-facts.ts does not
 * look at, such as views and functions. Only a superuser (or what a cloud has in its place) may make them; the
 * comparison of facts works without. They must never fail the application's DDL: whatever goes wrong is swallowed.
 */

export interface NotedDdl {
  readonly id: number;
  /** `HH:MM:SS`, UTC. */
  readonly at: string;
  readonly tag: string;
  readonly objectType: string;
  readonly object: string;
  readonly schema: string | null;
  /** Without its schema. */
  readonly name: string;
  readonly role: string;
  readonly application: string;
  /** Of a sequence: whether it is there no more; and the topmost table of the column that owns it now. */
  readonly isGone: boolean;
  readonly ownedBy: TableName | null;
}

const TRIGGERS = ['verdigris_ddl', 'verdigris_ddl_drop'] as const;

/**
 * Makes the event triggers, unless they are there.
 *
 * @returns false where the role may not: then only the comparison of facts is at hand.
 */
export async function installDdlTriggers(session: Session): Promise<boolean> {
  try {
    const making = 'CREATE EVENT TRIGGER verdigris_ddl';
    await briefLock(session, making, () =>
      inTransaction(session, async () => {
        await session.query(INSTALL);
        const { rows } = await session.query<{ name: string }>(
          'SELECT evtname::text AS name FROM pg_event_trigger WHERE evtname = ANY ($1)',
          [TRIGGERS],
        );
        const there = new Set(rows.map(({ name }) => name));
        if (!there.has('verdigris_ddl')) await session.query(ON_END);
        if (!there.has('verdigris_ddl_drop')) await session.query(ON_DROP);
      }),
    );
    return true;
  } catch (error) {
    if (sqlState(error) === NO_RIGHT) return false;
    throw error;
  }
}

/** Removes the event triggers, if they are there. */
export async function dropDdlTriggers(session: Session): Promise<void> {
  const { rows } = await session.query<{ name: string }>(
    'SELECT evtname::text AS name FROM pg_event_trigger WHERE evtname = ANY ($1)',
    [TRIGGERS],
  );
  if (rows.length === 0) return;
  await briefLock(session, 'DROP EVENT TRIGGER verdigris_ddl', () =>
    session.query('DROP EVENT TRIGGER IF EXISTS verdigris_ddl; DROP EVENT TRIGGER IF EXISTS verdigris_ddl_drop'),
  );
}

/** Which notes are known already. */
export interface KnownNotes {
  /** The last one. */
  readonly noted: number;
  /**
   * An int8multirange: ids before that one which were not there yet. Whoever has taken one of them may commit later. A
   * baseline of an earlier version has none.
   */
  readonly late?: string;
}

/** How far before the last note one is waited for that commits later than it: bounds what a baseline keeps. */
const LATE_WITHIN = 10_000;

/** The notes that are there now, as known. */
export async function readKnownNotes(session: Session): Promise<KnownNotes> {
  if (!(await hasNotes(session))) return { noted: 0 };
  const { rows } = await session.query<Required<KnownNotes>>(
    `SELECT coalesce(max(id), 0)::float8 AS noted,
            coalesce(int8multirange(int8range(greatest(max(id) - $1, 0) + 1, max(id))) - range_agg(int8range(id, id + 1)),
                     '{}')::text AS late
       FROM verdigris.ddl WHERE id > (SELECT max(id) - $1::bigint FROM verdigris.ddl)`,
    [LATE_WITHIN],
  );
  return rows[0] ?? { noted: 0 };
}

/** How many notes there are. Their sequence goes on when a note is written, which is seen only when its transaction ends. */
export async function countNotes(session: Session): Promise<number> {
  if (!(await hasNotes(session))) return 0;
  const { rows } = await session.query<{ count: number }>('SELECT count(*)::float8 AS count FROM verdigris.ddl');
  return rows[0]?.count ?? 0;
}

/** How many notes are read at a time: an ETL job may write thousands an hour. */
const PAGE = 1_000;

/** What was noted beyond what is known, oldest first; nothing where no trigger could be made. */
export async function* readNotedDdl(session: Session, { noted, late = '{}' }: KnownNotes): AsyncGenerator<NotedDdl> {
  if (!(await hasNotes(session))) return;
  let after = noted - LATE_WITHIN;
  for (;;) {
    const { rows } = await session.query<NotedDdl>(NOTED, [noted, late, after, PAGE]);
    yield* rows;
    if (rows.length < PAGE) return;
    after = rows.at(-1)?.id ?? after;
  }
}

const NOTED = `
SELECT id::float8, to_char(at AT TIME ZONE 'UTC', 'HH24:MI:SS') AS at, tag, object_type AS "objectType", object,
       schema_name AS schema, coalesce(object_name, '') AS name, role::text, application,
       object_type = 'sequence' AND sequence.oid IS NULL AS "isGone", owner.name AS "ownedBy"
  FROM (SELECT * FROM verdigris.ddl
         WHERE (id > $1 OR id <@ $2::int8multirange) AND id > $3
         ORDER BY id LIMIT $4) note
  LEFT JOIN LATERAL (
       SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relname = CASE object_type WHEN 'sequence' THEN (parse_ident(object))[2] END
          AND n.nspname = schema_name AND c.relkind = 'S' OFFSET 0) sequence ON true
  LEFT JOIN LATERAL (
       SELECT json_build_object('schema', rn.nspname, 'name', r.relname) AS name
         FROM pg_depend d
         JOIN pg_class r ON r.oid = coalesce(pg_partition_root(d.refobjid), d.refobjid)
         JOIN pg_namespace rn ON rn.oid = r.relnamespace
        WHERE d.classid = 'pg_class'::regclass AND d.objid = sequence.oid AND d.objsubid = 0
          AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') OFFSET 0) owner ON true
 ORDER BY id`;

async function hasNotes(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ there: boolean }>(`SELECT to_regclass('verdigris.ddl') IS NOT NULL AS there`);
  return rows[0]?.there === true;
}

/**
 * Not noted: what our sessions do, temporary objects, members of extensions, schema verdigris; and commands that change
 * no object (REFRESH, REINDEX), or only rights and comments.
 */
const INSTALL = `
CREATE TABLE IF NOT EXISTS verdigris.ddl (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  tag text NOT NULL,
  object_type text NOT NULL,
  object text NOT NULL,
  schema_name text,
  object_name text,
  role name NOT NULL,
  application text NOT NULL
);
${ONLY_OWNERS_WRITE}
CREATE OR REPLACE FUNCTION verdigris.note_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $fn$
DECLARE
  by_application text := current_setting('application_name');
BEGIN
  IF by_application LIKE 'verdigris %' AND by_application <> 'verdigris router'
     OR TG_TAG IN ('REFRESH MATERIALIZED VIEW', 'REINDEX', 'COMMENT', 'SECURITY LABEL', 'GRANT', 'REVOKE',
                   'ALTER DEFAULT PRIVILEGES') THEN
    RETURN;
  END IF;
  IF TG_EVENT = 'sql_drop' THEN
    INSERT INTO verdigris.ddl (tag, object_type, object, schema_name, object_name, role, application)
    SELECT TG_TAG, o.object_type, o.object_identity, o.schema_name, o.object_name, session_user, by_application
      FROM pg_event_trigger_dropped_objects() o
     WHERE o.original AND NOT o.is_temporary AND o.schema_name IS DISTINCT FROM 'verdigris'
       AND o.object_type NOT IN ('publication', 'publication relation', 'subscription', 'event trigger');
  ELSE
    INSERT INTO verdigris.ddl (tag, object_type, object, schema_name, object_name, role, application)
    SELECT o.command_tag, o.object_type, o.object_identity, o.schema_name,
           (SELECT i.name FROM pg_identify_object(o.classid, o.objid, o.objsubid) i), session_user, by_application
      FROM pg_event_trigger_ddl_commands() o
     WHERE NOT o.in_extension AND o.object_identity IS NOT NULL AND coalesce(o.schema_name, '') !~ '^(verdigris$|pg_temp)'
       AND o.object_type NOT IN ('publication', 'publication relation', 'subscription', 'event trigger');
  END IF;
EXCEPTION WHEN OTHERS THEN
  RETURN;
END $fn$;`;

const ON_END = `
CREATE EVENT TRIGGER verdigris_ddl ON ddl_command_end EXECUTE FUNCTION verdigris.note_ddl();
ALTER EVENT TRIGGER verdigris_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER verdigris_ddl IS 'Verdigris: DDL during a migration'`;

const ON_DROP = `
CREATE EVENT TRIGGER verdigris_ddl_drop ON sql_drop EXECUTE FUNCTION verdigris.note_ddl();
ALTER EVENT TRIGGER verdigris_ddl_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER verdigris_ddl_drop IS 'Verdigris: DDL during a migration'`;
