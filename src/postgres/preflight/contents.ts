import { readSequences } from '../catalog-sequences.js';
import { formatTableName } from '../../plan/table-name.js';
import { countLargeObjects } from '../unmoved-contents.js';
import type { Found, SideCheck } from './check.js';
import { listed } from './finding.js';

/** Checks of what a database holds beside the rows of its tables. */

export const largeObjects: SideCheck = {
  name: 'large-objects',
  sides: ['blue'],
  run: async ({ session }) => {
    const count = await countLargeObjects(session);
    if (count === 0n) return [];
    return [
      {
        severity: 'error',
        object: 'pg_largeobject',
        message: `blue has ${count} large objects: logical replication does not carry them, and rows that refer to them would break on green`,
        remedy: 'Move them into bytea columns; or, if nothing refers to them any more, remove them with vacuumlo',
      },
    ];
  },
};

/** Below this share of its range a sequence is said to be near its end. */
const NEAR_END = 10n;

export const sequenceRoom: SideCheck = {
  name: 'sequence-room',
  sides: ['blue'],
  run: async ({ session, plan }) => {
    const gap = BigInt(plan.promote.sequenceGap);
    return (await readSequences(session, plan.tables)).flatMap(
      ({ schema, name, lastValue, increment, min, max, cycle }): Found[] => {
        if (lastValue === null || cycle) return [];
        const left = increment > 0n ? max - lastValue : lastValue - min;
        const step = increment > 0n ? increment : -increment;
        const noGap = left < gap * step;
        if (left * NEAR_END > max - min && !noGap) return [];
        return [
          {
            severity: 'warning',
            object: formatTableName({ schema, name }),
            message: `the sequence has ${left / step} values left${noGap ? `, fewer than the ${gap} that promote.sequenceGap skips: it is carried over without a gap` : ''}`,
            remedy: 'Widen it (ALTER SEQUENCE ... AS bigint, and the column that it fills) before it ends',
          },
        ];
      },
    );
  },
};

/** Of a session that is in no transaction: those that a transaction holds end with it. */
export const advisoryLocks: SideCheck = {
  name: 'advisory-locks',
  sides: ['blue'],
  run: async ({ session }) => {
    const { rows } = await session.query<{ who: string; locks: number }>(
      `SELECT coalesce(nullif(a.application_name, ''), 'no application name') || ', user ' || a.usename AS who, count(*)::int AS locks
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.state = 'idle' AND a.application_name NOT LIKE 'verdigris%'
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY 1 ORDER BY 1`,
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'warning',
        object: listed(rows.map(({ who, locks }) => `${who}: ${locks}`)),
        message:
          'these sessions hold advisory locks, which are of one server: while writes move, one process can hold the lock on blue and another one the same lock on green',
        remedy:
          'See that two at once do no harm (a leader that is elected, a job that runs once), or stop what needs them for the promotion',
      },
    ];
  },
};

/** Extensions that run something by the clock, on each server for itself. */
const SCHEDULERS = ['pg_cron', 'pg_partman', 'pgagent', 'pg_timetable', 'pg_background', 'timescaledb'];

export const scheduledJobs: SideCheck = {
  name: 'scheduled-jobs',
  sides: ['blue'],
  run: async ({ session }) => {
    const { rows } = await session.query<{ name: string }>(
      'SELECT extname AS name FROM pg_extension WHERE extname = ANY ($1)',
      [SCHEDULERS],
    );
    return rows.map(({ name }): Found => ({
      severity: 'warning',
      object: name,
      message: `${name} is installed: jobs that write run on blue until the promotion and must run on green from then on; a job that makes or drops partitions changes the schema during the run`,
      remedy:
        'Make the partitions of the whole run beforehand, pause jobs that do DDL, and plan when jobs are switched on on green',
    }));
  },
};

/** TimescaleDB keeps the rows of such a table in tables of its own, its chunks, and what it knows of them in its catalog. */
export const hypertables: SideCheck = {
  name: 'hypertables',
  sides: ['blue'],
  run: async ({ session, tables }) => {
    const { rows: there } = await session.query<{ there: boolean }>(
      `SELECT to_regclass('_timescaledb_catalog.hypertable') IS NOT NULL AS there`,
    );
    if (there[0]?.there !== true) return [];
    const { rows } = await session.query<{ object: string }>(
      `SELECT c.oid::regclass::text AS object
         FROM _timescaledb_catalog.hypertable h
         JOIN pg_namespace n ON n.nspname = h.schema_name
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = h.table_name
        WHERE c.oid = ANY ($1::oid[]) ORDER BY 1`,
      [(await tables()).map(({ oid }) => oid)],
    );
    if (rows.length === 0) return [];
    return [
      {
        severity: 'error',
        object: listed(rows.map(({ object }) => object)),
        message:
          'hypertables of TimescaleDB are not supported: each of their chunks would be moved as a table by itself, without what the catalog of TimescaleDB says of it, and a chunk that is made during the run is a new table, which holds the run',
        remedy:
          'Leave them and "_timescaledb_internal.*" out ("tables.exclude"), and move them in a way that TimescaleDB has for it',
      },
    ];
  },
};
